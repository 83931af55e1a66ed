"""What every follower has: the news of its master's end, a log, and a way to say a line there.

A follower's standard input is a pipe from its master. The master writes how it ended and closes the
pipe; the kernel closes it when the master is killed. The follower then has `LAST_SECONDS` for what
is left to do, and is ended after that, whatever it hangs in.

Its standard output is a pipe too: the master logs each line that `say` writes. Whatever the
libraries of a follower print goes to its log.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import TypeAdapter, ValidationError

LAST_SECONDS = 30
"""How long a follower may take to end once its master has ended."""
LONGEST_LINE = 2000


@dataclass(frozen=True)
class Ending:
    """How a master ended.

    ``over``: the journal says how. ``stopped``: a signal ended it. ``error``: an error did, and the
    message says which. ``killed``: it did not say how.
    """

    how: Literal["over", "stopped", "error", "killed"]
    message: str = ""

    def encode(self) -> bytes:
        """What the master writes to its followers."""
        return _ENDING.dump_json(self)

    @classmethod
    def decode(cls, written: bytes) -> Ending:
        """What a follower has read when its standard input has ended."""
        try:
            return _ENDING.validate_json(written)
        except ValidationError:
            return cls("killed")


_ENDING = TypeAdapter(Ending)


class Followed(Protocol):
    """What a follower knows of its master: whether and how it has ended."""

    ended: threading.Event
    ending: Ending

    def say(self, line: str) -> None:
        """Have the master log a line."""
        ...


class FollowedMaster:
    """The master of this process, which must have been started by `launch.Followers`."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.ending = Ending("killed")
        """How it ended, once ``ended`` is set."""
        self._lines = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        self.ending = Ending.decode(sys.stdin.buffer.read())
        signal.alarm(LAST_SECONDS)  # its default action ends the process
        self.ended.set()

    def say(self, line: str) -> None:
        """Have the master log a line as a warning. A master that has gone hears nothing."""
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - the follower's log
        with contextlib.suppress(OSError):
            os.write(self._lines, f"{' '.join(line.split())[:LONGEST_LINE]}\n".encode())
