"""The scoring process, and what it and the engine's process send each other."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apbmm_common.errors import ApbmmError, EvaluationError, WireError
from apbmm_worker.engine.driver import Prompt
from apbmm_worker.evaluation.scoring_protocol import (
    FROM_SCORING,
    Failed,
    FromScoring,
    Questions,
    Ready,
    ToScoring,
    Unanswered,
    unexpected,
)
from apbmm_worker.message_socket import bodies, child_command, message_in, to_bytes

_MODULE = "apbmm_worker.evaluation.evalscope.scoring_process"


@dataclass(frozen=True)
class AskedBenchmark:
    """A benchmark's prompts, the texts of their questions, and a digest that includes targets.

    ``asks_once``: its adapter asks each question once, and takes that answer as it is.
    """

    name: str
    prompts: tuple[Prompt, ...]
    texts: tuple[str, ...]
    digest: str
    asks_once: bool = False


class ScoringProcess:
    """The process, a thread that writes to it, and our end of its socket."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with contextlib.ExitStack() as ends:
            output = ends.enter_context(log.open("ab"))
            ours, theirs = socket.socketpair()
            ends.enter_context(theirs)
            self._socket = ours
            self._incoming = ours.makefile("rb")
            self._process = subprocess.Popen(
                child_command(_MODULE, theirs),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            )
        self.questions: tuple[AskedBenchmark, ...] | None = None
        """What it has prepared; None before `prepared`."""
        self._outgoing: queue.SimpleQueue[ToScoring | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="to-scoring", daemon=True)
        self._writer.start()
        threading.Thread(target=self._watch, name="scoring-process", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def id(self) -> int:
        """The process's id."""
        return self._process.pid

    def send(self, message: ToScoring) -> None:
        """Send a message later, in order. Never waits."""
        self._outgoing.put(message)

    def messages(self) -> Iterator[FromScoring]:
        """Messages until the process dies. Raises `EvaluationError` for what is none."""
        try:
            for body in bodies(self._incoming.read):
                yield message_in(body, FROM_SCORING)
        except ConnectionError:  # it died before it had read everything
            return
        except WireError as error:
            self.kill()
            raise EvaluationError(
                f"the scoring process sent an unsound message: {error.message}",
                f"its log is {self._log}",
                kind="infrastructure",
            ) from error

    def prepared(self) -> tuple[AskedBenchmark, ...]:
        """Wait for the questions of a process that has just started."""
        questions: dict[str, list[Questions]] = {}
        for message in self.messages():
            match message:
                case Questions():
                    questions.setdefault(message.benchmark, []).append(message)
                case Ready(digests=digests, ask_once=ask_once):
                    self.questions = tuple(
                        AskedBenchmark(
                            name,
                            tuple(p.prompt for some in questions[name] for p in some.prompts),
                            tuple(p.text for some in questions[name] for p in some.prompts),
                            digest,
                            name in ask_once,
                        )
                        for name, digest in digests.items()
                    )
                    return self.questions
                case Failed():
                    raise message.exception
                case _:
                    raise unexpected(message)
        raise self.died()

    def end(self) -> None:
        """End it, and with it its `messages`; any thread may call this."""
        self._process.kill()

    def died(self) -> EvaluationError:
        """The error that says so."""
        self.kill()
        return EvaluationError(
            f"the scoring process died (exit status {self._process.returncode})",
            f"its log is {self._log}; the next evaluation starts another",
            kind="infrastructure",
        )

    def kill(self) -> None:
        """Kill it and wait for its end; may be called twice."""
        self._outgoing.put(None)
        self._process.kill()
        self._process.wait()
        # Wakes a writer that waits for the process to read: a fork may hold the other end.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._writer.join()
        self._incoming.close()
        self._socket.close()

    def _watch(self) -> None:
        """End the reading when the process has died: a fork of it may hold the other end."""
        self._process.wait()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def _write(self) -> None:
        while (message := self._outgoing.get()) is not None:
            try:
                data = to_bytes(message)
            except ApbmmError as error:
                number = getattr(message, "number", 0)
                data = to_bytes(Unanswered(number=number, failure=Failed.of(error)))
            try:
                self._socket.sendall(data)
            except OSError:
                return  # the reader sees that the process has died
