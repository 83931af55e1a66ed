"""How many vectors to propose before a worker needs them. Pure."""

from __future__ import annotations

from math import ceil

from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.run_state import RunState

WAIT_WORTH_AVOIDING = 0.005
"""Share of an evaluation's time that an idle worker may wait for its vector."""
PAPER_WORKERS = 4
"""A vector ahead of need is chosen without the latest results. For a fleet as small as the paper's
there are none; for so many workers more, there may be one."""


def ahead_of_need(run_state: RunState, ask_seconds: float, idle: int) -> int:
    """Vectors to have ready for an asynchronous method; its last ask took ``ask_seconds``.

    None, as in the paper, with few workers, or while one waits for its vector but a moment.
    Otherwise twice as many as workers come free while an ask is computed, because the next one
    begins only after it. ``idle`` workers are free now.
    """
    if not run_state.durations or ask_seconds <= 0:
        return 0
    typical = run_state.durations[len(run_state.durations) // 2]
    if ask_seconds <= WAIT_WORTH_AVOIDING * typical:
        return 0
    workers = idle + run_state.count(EvaluationState.ACTIVE)
    most = max(0, workers // PAPER_WORKERS - 1)
    return ceil(min(most, 2 * workers * ask_seconds / typical)) if typical else most
