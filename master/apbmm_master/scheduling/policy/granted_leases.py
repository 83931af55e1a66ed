"""Which evaluation is leased next, and to which worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from apbmm_master.journal.assessment.first_steps import may_estimate, step_of
from apbmm_master.journal.costs.budget import reached_cost, room
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.scheduling.fleet import Fleet, Worker
from apbmm_master.scheduling.policy.completion import Kept, next_to_complete
from apbmm_master.scheduling.policy.decisions import GrantLease
from apbmm_master.scheduling.policy.liveness import able_workers
from apbmm_master.scheduling.policy.queued import begun, in_order, room_to_begin
from apbmm_master.scheduling.policy.situation import Situation


def grant_leases(
    run_state: RunState, fleet: Fleet, idle: list[Worker], situation: Situation, kept: Kept
) -> list[GrantLease]:
    """Leases for the idle workers, in the order of `_candidates`.

    An evaluation goes to a worker that has not failed it, where there is one.
    """
    accusing = run_state.data_faults()
    free = [worker for worker in idle if worker.name not in accusing]
    given: list[GrantLease] = []
    if not free:
        return given
    workers = fleet.workers.values()
    still_held = {lease for each in workers for lease in (*each.held, *each.delivering)}
    for evaluation in _candidates(run_state, situation, given, kept):
        if evaluation.reason_to_give_up:
            continue
        if any(attempt.lease in still_held for attempt in evaluation.attempts):
            continue
        worker = _worker_that_has_not_failed(evaluation, free)
        if worker is None and _failed_on_all(evaluation, able_workers(run_state, fleet, situation)):
            worker = free[0]
        if worker is not None:
            free.remove(worker)
            given.append(GrantLease(evaluation.id, worker.name, step_of(run_state, evaluation)))
        if not free:
            break
    return given


def _candidates(
    run_state: RunState, situation: Situation, given: Sequence[GrantLease], kept: Kept
) -> Iterator[Evaluation]:
    """What may be leased within the budget, in its order; ``given`` grows as it is leased.

    The measurement and the references come first. Then come the merges that have paused and are to
    show how good the estimates are, then those in the queue. Once the run is finishing, those in
    the queue that were begun come first, and then the paused merges of `next_to_complete`.
    """
    queue = in_order(run_state)
    if reached_cost(run_state) is None:
        yield from (evaluation for evaluation in queue if not evaluation.in_budget)
    if run_state.finishing:
        if room(run_state) > 0:
            yield from begun(run_state)
        if not situation.stalled:
            yield from _merges_to_complete(run_state, situation, given)
        return
    if room(run_state) > 0 and may_estimate(run_state):
        yield from (merge.evaluation for merge in situation.paused if merge.audited)
    elif room(run_state) > 0:  # nothing will ever be decided on them
        yield from run_state.of_budget(EvaluationState.PAUSED)
    left = room_to_begin(run_state, situation, kept)
    for evaluation in queue:
        if evaluation.in_budget and left > 0:
            before = len(given)
            yield evaluation
            left -= len(given) - before


def _merges_to_complete(
    run_state: RunState, situation: Situation, given: Sequence[GrantLease]
) -> Iterator[Evaluation]:
    """Paused merges by `next_to_complete`, each chosen when those before are leased or refused."""
    paused = situation.paused
    underway = [merge for merge in situation.estimated if merge not in paused]
    while merge := next_to_complete(run_state, paused, underway, situation.measured):
        before = len(given)
        yield merge.evaluation
        if len(given) > before:
            underway.append(merge)
        else:  # no free worker may have it
            paused.remove(merge)


def _worker_that_has_not_failed(evaluation: Evaluation, free: list[Worker]) -> Worker | None:
    """A free worker that has not failed it."""
    return next((worker for worker in free if not evaluation.failed_on(worker.name)), None)


def _failed_on_all(evaluation: Evaluation, able: list[Worker]) -> bool:
    """Whether every worker that may work has failed it, so that one of them may try again."""
    return all(evaluation.failed_on(worker.name) for worker in able)
