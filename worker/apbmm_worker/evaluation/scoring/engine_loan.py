"""An engine is lent for the answers to one merge, and is free for the next before the report."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Self

from apbmm_common.errors import EvaluationError
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.answering import Answering
from apbmm_worker.evaluation.scoring.process import ScoringProcess

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class EarlyEnd:
    """Lets an engine be free for the next merge before the report on this one is made.

    ``freed`` is called from any thread when it is, not before ``may`` is true. From then on a
    silence of ``stall`` seconds ends the report.
    """

    may: Callable[[], bool]
    freed: Callable[[], None]
    stall: float


class EngineLoan:
    """An engine for the answers to one merge, until it is free for another: then it is let alone.

    It has the methods of `Answering`.
    """

    def __init__(self, engine: Answering) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self.is_over = False

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        """Put prompts in flight. Raises `EvaluationError` once the engine has another merge."""
        with self._lock:
            if self.is_over:
                raise EvaluationError(
                    "an adapter asked for another answer when it had all of them",
                    "the engine had been given the next merge; it is kept until the report is "
                    "made from now on",
                    kind="infrastructure",
                )
            return self._engine.submit(prompts)

    def abort(self) -> None:
        """Drop what is in flight of this merge."""
        with self._lock:
            if not self.is_over:
                self._engine.abort()

    def cut(self) -> None:
        """Cut off what is in flight of this merge."""
        with self._lock:
            if not self.is_over:
                self._engine.cut()

    def end(self) -> None:
        """Let the engine alone from now on."""
        with self._lock:
            self.is_over = True


class ReportWatch:
    """Ends the loan of an engine once a report lasts, and a report that has stalled since."""

    def __init__(self, process: ScoringProcess, early: EarlyEnd | None) -> None:
        self._process = process
        self._early = early
        self._over = threading.Event()
        self._heard = time.monotonic()
        self._thread: threading.Thread | None = None
        self.stalled: EvaluationError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def heard(self) -> None:
        """Note a sign of life of the process."""
        self._heard = time.monotonic()

    def end_loan(self, loan: EngineLoan, patience: float, prepare: Callable[[], None]) -> None:
        """End the loan in ``patience`` seconds unless the report is made by then.

        ``prepare`` is called before that is told.
        """
        early = self._early
        if early is None:
            return

        def watch() -> None:
            if self._over.wait(patience):
                return
            while not early.may():
                if self._over.wait(POLL_SECONDS):
                    return
            loan.end()
            prepare()
            early.freed()
            while not self._over.wait(max(0.01, self._heard + early.stall - time.monotonic())):
                if time.monotonic() - self._heard >= early.stall:
                    self.stalled = EvaluationError(
                        f"the report showed no progress for {early.stall:g} s",
                        "timings.stall in the run file is the limit",
                        kind="engine",
                    )
                    self._process.end()
                    return

        self._thread = threading.Thread(target=watch, name="report", daemon=True)
        self._thread.start()
