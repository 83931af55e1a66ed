"""Merges and references that wait for a worker: their order, and how many the budget allows."""

from __future__ import annotations

from apbmm_master.journal.costs.budget import room
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.scheduling.policy.completion import Kept
from apbmm_master.scheduling.policy.situation import Situation


def in_order(run_state: RunState) -> list[Evaluation]:
    """The queue: the measurement, which is short, the references, then the merges as proposed.

    All that follows the initial design waits for the references, so the longest of them goes first:
    the one with the longest attempt so far, which was not enough, or else the one that is expected
    to take longest.
    """
    order = _longest_first(run_state)

    def urgency(evaluation: Evaluation) -> tuple[int, float, int]:
        if evaluation.id not in order:
            return 2 * evaluation.in_budget, 0.0, evaluation.ordinal
        longest = max((attempt.gpu_seconds for attempt in evaluation.attempts), default=0.0)
        return 1, -longest, order.index(evaluation.id)

    return sorted(run_state.of_state(EvaluationState.QUEUED), key=urgency)


def _longest_first(run_state: RunState) -> list[str]:
    """The references, those that objectives call costly before the others, the cheap ones last.

    The order of the sources decides between equals: the first one of the paper's is thinking.
    """
    costs = dict.fromkeys(run_state.references, 0)
    for objective in run_state.spec.objectives if run_state.spec is not None else ():
        if objective.better == "lower" and objective.expert and objective.vanilla:
            costs[objective.vanilla] += 1
            costs[objective.expert] -= 1
    return sorted(costs, key=lambda name: -costs[name])


def begun(run_state: RunState) -> list[Evaluation]:
    """Merges in the queue of which an attempt has ended without a result."""
    queued = run_state.of_budget(EvaluationState.QUEUED)
    return [e for e in queued if e.attempts and not e.reason_to_give_up]


def room_to_begin(run_state: RunState, situation: Situation, kept: Kept, queued: int = 0) -> float:
    """How many merges may be begun beside so many that are queued, before the run's end."""
    return 0.0 if situation.stalled else room(run_state, queued, kept)
