"""Progress that is reported while an engine computes."""

from __future__ import annotations

import threading

from apbmm_worker.engine.token_progress import TokenProgress


class Stepper:
    steps = 0


def test_progress_is_repeated_while_steps_advance() -> None:
    engine, reported, enough = Stepper(), list[tuple[int, int]](), threading.Event()

    def report(done: int, total: int) -> None:
        reported.append((done, total))
        if len(reported) > 2:
            enough.set()
        engine.steps += 1

    with TokenProgress(engine, report, interval=0.01) as progress:
        progress.answered(1, 9)
        assert enough.wait(60)
    assert set(reported) == {(1, 9)}


def test_a_hanging_engine_reports_nothing() -> None:
    engine, reported = Stepper(), list[tuple[int, int]]()
    with TokenProgress(engine, lambda done, total: reported.append((done, total)), 0.01):
        threading.Event().wait(0.1)
    assert reported == []
