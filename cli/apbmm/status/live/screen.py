"""Keeps the live view on a terminal, while a run goes on elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Self

from rich.console import Console
from rich.live import Live

from apbmm.status.live.view import TURNS_A_SECOND, LiveView
from apbmm_common.errors import ApbmmError
from apbmm_common.process.known_runs import JOURNAL
from apbmm_common.protocol.status_requests import Snapshot

POLL_SECONDS = 1.0
"""Between two snapshots."""
JOIN_SECONDS = 5.0
MOST_BYTES = 1 << 20
"""Of `LiveScreen.output`, so much at most goes into the log at a time."""
MOST_LINES = 50
"""Of what was written to `LiveScreen.output`, so many of the last lines are shown in the end."""


def has_screen(console: Console) -> bool:
    """Whether the console is a terminal on which lines can be drawn again."""
    return console.is_terminal and not console.is_dumb_terminal


class LiveScreen:
    """The live view on the alternate screen of a terminal, while the context is open.

    ``ask`` gives the next snapshot; None, or an `ApbmmError`, where there is none, and the last one
    stays. Without it `show` is called with each. ``expected`` are workers that were started here.
    What is said by `say` stands in the view and, when that is gone, on standard error, where the
    end of `output` follows. All of `output` goes into the file ``log`` once a run has begun there.
    """

    def __init__(
        self,
        ask: Callable[[], Snapshot | None] | None = None,
        *,
        console: Console | None = None,
        expected: Sequence[str] = (),
        hint: str = "",
        log: Path | None = None,
    ) -> None:
        self._ask = ask
        self.output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the view
        """Where a process that would write between the lines of the view writes its errors."""
        self._view = LiveView(expected=expected, began=time.monotonic())
        if hint:
            self._view.hint = hint
        self._said: list[str] = []
        self._log = log
        self._kept = 0
        """Bytes of `output` that are in the log."""
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="snapshots", daemon=True)
        self._live = Live(
            get_renderable=self._drawn,
            console=console or Console(highlight=False),
            screen=True,
            refresh_per_second=TURNS_A_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        if self._ask is not None:
            self._thread.start()
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._live.stop()
        if self._ask is not None:
            self._thread.join(JOIN_SECONDS)
        self._keep()
        with self.output:
            self.output.seek(0)
            written = self.output.read().decode(errors="replace").splitlines()
        for text in [*self._said, *written[-MOST_LINES:]]:
            print(text, file=sys.stderr)  # noqa: T201

    def say(self, text: str) -> None:
        """Tell a person something that must not be lost."""
        self._said.append(text)
        self._view.notices.append(text)

    def _drawn(self) -> LiveView:
        self._view.now = time.monotonic()
        return self._view

    def show(self, status: Snapshot) -> None:
        """Draw a snapshot from now on."""
        # In one step: another thread draws.
        self._view = replace(self._view, status=status, taken=time.monotonic())

    def _poll(self) -> None:
        assert self._ask is not None
        while not self._ends.is_set():
            with contextlib.suppress(ApbmmError):
                found = self._ask()
                if found is not None:
                    self.show(found)
            self._keep()
            self._ends.wait(POLL_SECONDS)

    def _keep(self) -> None:
        """Add what is new in `output` to the log; a folder without a run stays as it is.

        The place in the file is not moved: the process that writes there shares it.
        """
        new = os.pread(self.output.fileno(), MOST_BYTES, self._kept)
        if not new or self._log is None or not (self._log.parent / JOURNAL).is_file():
            return
        with contextlib.suppress(OSError), self._log.open("ab") as log:
            log.write(new)
            self._kept += len(new)
