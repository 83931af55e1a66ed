"""Progress of an evaluation while no answer is finished yet.

A long answer takes many minutes. The daemon must be able to tell an engine that computes such an
answer from an engine that hangs. So the engine counts its steps, and as long as the count grows,
the last progress is reported again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

INTERVAL = 5.0


class CountsSteps(Protocol):
    """An engine that counts its steps."""

    @property
    def steps(self) -> int:
        """Steps so far."""


class TokenProgress:
    """Reports (answered, asked) after each answer, and every ``interval`` s while steps advance."""

    def __init__(
        self,
        engine: CountsSteps,
        report: Callable[[int, int], None],
        interval: float = INTERVAL,
    ) -> None:
        self._engine = engine
        self._report = report
        self._interval = interval
        self._last = (0, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="token-progress", daemon=True)

    def __enter__(self) -> TokenProgress:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def answered(self, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` questions are answered."""
        self._last = (done, total)
        self._report(done, total)

    def _watch(self) -> None:
        seen = self._engine.steps
        while not self._over.wait(self._interval):
            steps = self._engine.steps
            if steps != seen:
                self._report(*self._last)
            seen = steps
