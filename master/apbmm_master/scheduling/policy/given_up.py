"""What is given up: leases of lost workers, workers out of reach, evaluations that failed."""

from __future__ import annotations

from collections.abc import Iterator

from apbmm_common.run_file import RunSpec
from apbmm_master.journal.lifecycle import EvaluationState, orphan_deadline
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.scheduling.fleet import Fleet
from apbmm_master.scheduling.policy.decisions import FailEvaluation, GiveUpLease, RemoveWorker
from apbmm_master.scheduling.policy.liveness import answers_for, silence
from apbmm_master.scheduling.policy.situation import Situation


def lost_leases(
    run_state: RunState, fleet: Fleet, spec: RunSpec, situation: Situation
) -> Iterator[GiveUpLease]:
    """The leases whose workers are silent for too long, or were started anew."""
    deadline = orphan_deadline(run_state.durations, spec.timings)
    for evaluation, attempt in run_state.active_attempts():
        worker = fleet.workers.get(attempt.worker)
        if worker is not None and not answers_for(worker, attempt):
            yield GiveUpLease(evaluation.id, attempt.lease, f"{worker.name} was started anew")
            continue
        # A worker of an earlier master that this one has not heard gets less time to come back.
        heard = worker is not None or attempt.epoch == run_state.epoch
        limit = deadline if heard else spec.timings.reconcile
        if silence(worker, attempt, situation) >= limit:
            yield GiveUpLease(evaluation.id, attempt.lease, f"{attempt.worker} was not heard again")


def unreachable_workers(
    run_state: RunState, fleet: Fleet, spec: RunSpec, situation: Situation
) -> Iterator[RemoveWorker]:
    """The workers that are silent for ``timings.unreachable`` seconds and have no work."""
    limit = spec.timings.unreachable
    for worker in fleet.workers.values():
        if situation.now - worker.heard >= limit and not run_state.work_of(worker.name):
            yield RemoveWorker(worker.name)


def failed_for_good(run_state: RunState) -> Iterator[FailEvaluation]:
    """The evaluations that wait, and are to get no further attempt."""
    waiting = (EvaluationState.QUEUED, EvaluationState.PAUSED)
    for evaluation in run_state.with_failed_attempts():
        if evaluation.state in waiting and evaluation.reason_to_give_up:
            yield FailEvaluation(evaluation.id, evaluation.reason_to_give_up)
