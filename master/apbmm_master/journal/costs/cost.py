"""What the evaluations of a run cost."""

from __future__ import annotations

import math

from apbmm_master.journal.state.evaluations import Attempt, Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.state.spending import seconds_with_master, tokens_of


def gpu_seconds(run_state: RunState, now: float) -> dict[str, float]:
    """By evaluation: what `evaluation_gpu_seconds` says of it."""
    return {
        evaluation.id: evaluation_gpu_seconds(run_state, evaluation, now)
        for evaluation in run_state.evaluations.values()
    }


def evaluation_gpu_seconds(run_state: RunState, evaluation: Evaluation, now: float) -> float:
    """The seconds of all attempts of an evaluation, times the cards of their workers.

    An attempt in progress counts up to ``now`` (Unix seconds). A CPU worker counts as one card.
    Seconds without a master count as far as a result says that its worker went on.
    """
    return math.fsum(
        attempt_gpu_seconds(run_state, attempt, now) for attempt in evaluation.attempts
    )


def attempt_gpu_seconds(run_state: RunState, attempt: Attempt, now: float) -> float:
    """What one attempt cost; up to ``now`` if its engine works on it."""
    if attempt.engine_until is not None:
        return attempt.gpu_seconds
    seconds = seconds_with_master(attempt.leased_at, now, run_state.pauses)
    return seconds * run_state.sessions.cards(attempt.worker, attempt.boot)


def generated_tokens(evaluation: Evaluation) -> float:
    """Tokens that an evaluation generated in all its answers; 0 until it is done."""
    return tokens_of(evaluation.body)


def seconds_served(run_state: RunState, now: float) -> float:
    """Wall-clock seconds from the run's first event to ``now``, without those without a master."""
    return seconds_with_master(run_state.begun, now, run_state.pauses)
