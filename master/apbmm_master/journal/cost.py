"""What the evaluations of a run cost."""

from __future__ import annotations

import math

from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.evaluations import Evaluation
from apbmm_master.journal.run_state import RunState


def gpu_seconds(run_state: RunState, now: float) -> dict[str, float]:
    """By evaluation: the seconds of all its attempts, times the cards of their workers.

    An attempt in progress counts up to ``now`` (Unix seconds). A CPU worker counts as one card.
    """
    cards = {(stay.worker, stay.boot): cards_of(stay.gpu) for stay in run_state.sessions.stays}
    return {
        evaluation.id: math.fsum(
            cards.get((attempt.worker, attempt.boot), 1)
            * ((now if attempt.ended_at is None else attempt.ended_at) - attempt.leased_at)
            for attempt in evaluation.attempts
        )
        for evaluation in run_state.evaluations.values()
    }


def cards_of(gpu: str) -> int:
    """The number of cards that a worker's ``--gpu`` names: 2 for ``0,1``; 1 for ``cpu``."""
    return gpu.count(",") + 1


def generated_tokens(evaluation: Evaluation) -> float:
    """Tokens that an evaluation generated in all its answers; 0 until it is done."""
    if not isinstance(evaluation.body, Evaluated):
        return 0.0
    return math.fsum(
        result.metrics.get("tokens", 0.0) * result.answers
        for result in evaluation.body.benchmarks.values()
    )


def seconds_served(run_state: RunState, now: float) -> float:
    """Wall-clock seconds from the run's first event to ``now``, without those without a master."""
    return now - run_state.begun - math.fsum(end - begin for begin, end in run_state.pauses)
