"""Progress of an evaluation while no answer is finished yet.

A long answer takes many minutes. The daemon must be able to tell an engine that computes such an
answer from an engine that hangs. So the engine counts its steps, and as long as the count grows,
the last progress is reported again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from apbmm_worker.periodic_thread import PeriodicThread

INTERVAL = 5.0


class CountsSteps(Protocol):
    """An engine that counts its steps."""

    @property
    def steps(self) -> int:
        """Steps so far."""


class TokenProgress(PeriodicThread):
    """Reports (answered, asked) after each answer, and every ``interval`` s while steps advance."""

    def __init__(
        self,
        engine: CountsSteps,
        report: Callable[[int, int], None],
        interval: float = INTERVAL,
    ) -> None:
        super().__init__("token-progress", interval)
        self._engine = engine
        self._report = report
        self._last = (0, 0)
        self._seen = engine.steps

    def answered(self, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` questions are answered."""
        self._last = (done, total)
        self._report(done, total)

    def _turn(self) -> None:
        steps = self._engine.steps
        if steps != self._seen:
            self._report(*self._last)
        self._seen = steps
