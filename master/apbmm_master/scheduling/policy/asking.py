"""When the search method is asked for vectors, and for how many."""

from __future__ import annotations

from math import ceil

from apbmm_common.run_file import RunSpec
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import MEASURE
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.scheduling.policy.completion import Kept
from apbmm_master.scheduling.policy.decisions import AskForVectors
from apbmm_master.scheduling.policy.queued import room_to_begin
from apbmm_master.scheduling.policy.situation import Situation

WAIT_WORTH_AVOIDING = 0.005
"""No vector is prefetched while an ask takes a smaller share of an evaluation's time than this."""
PAPER_WORKERS = 4
"""Workers in the paper's experiments.

A prefetched vector is chosen without the latest results. So a fleet of the paper's size gets none,
and each further `PAPER_WORKERS` workers allow one.
"""


def ask_for_vectors(
    run_state: RunState, spec: RunSpec, situation: Situation, idle: int, given: int, kept: Kept
) -> AskForVectors | None:
    """An ask, if one is due; ``given`` of the ``idle`` workers get vectors that are queued."""
    if situation.asking or situation.exhausted or run_state.finishing or not run_state.has_space:
        return None
    missing = initial_missing(run_state, spec)
    wanted = idle - given
    if not missing and situation.batch is None:
        ready = run_state.count(EvaluationState.QUEUED) - given
        wanted += max(0, vectors_to_prefetch(run_state, situation.ask_seconds, idle) - ready)
    if not wanted and (run_state.asks or not missing):
        return None
    queued = run_state.count(EvaluationState.QUEUED)
    left = room_to_begin(run_state, situation, kept, queued)
    if left <= 0:
        return None
    if missing:
        return AskForVectors(int(min(missing, left)))
    if not (run_state.references_done and _measured(run_state)):
        return None
    return AskForVectors(int(min(situation.batch or wanted, left)))


def vectors_to_prefetch(run_state: RunState, ask_seconds: float, idle: int) -> int:
    """How many vectors to prefetch for an asynchronous method whose last ask took ``ask_seconds``.

    ``idle`` is the number of idle workers. The answer is 0, as in the paper, for few workers and
    for asks that take next to no time (`PAPER_WORKERS`, `WAIT_WORTH_AVOIDING`). Otherwise it is
    twice the number of workers that finish during an ask, because the next ask begins only after
    that one.
    """
    if not run_state.durations or ask_seconds <= 0:
        return 0
    typical = run_state.durations[len(run_state.durations) // 2]
    if ask_seconds <= WAIT_WORTH_AVOIDING * typical:
        return 0
    workers = idle + sum(a.answered_at is None for _, a in run_state.active_attempts())
    most = max(0, workers // PAPER_WORKERS - 1)
    return ceil(min(most, 2 * workers * ask_seconds / typical)) if typical else most


def _measured(run_state: RunState) -> bool:
    measure = run_state.evaluations.get(MEASURE)
    return measure is None or measure.state is EvaluationState.DONE


def initial_missing(run_state: RunState, spec: RunSpec) -> int:
    """Vectors of the initial design that are still to be proposed.

    Merges that were learnt from an earlier run take the place of as many. A point that fails is
    replaced, but not once the search has begun, which need not wait for the
    whole design (see `Search._can_propose`).
    """
    if run_state.count(purposes=("search",)):
        return 0
    proposed = run_state.count(purposes=("initial",))
    failed = run_state.count(EvaluationState.FAILED, purposes=("initial",))
    learnt = len(run_state.learning.evaluations)
    return max(0, spec.budget.initial - learnt - (proposed - failed))
