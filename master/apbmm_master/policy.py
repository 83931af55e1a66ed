"""What to do next, decided from ledger and fleet. Pure: no clock, socket or file of its own.

Invariants: a lease is committed before it is sent; a worker holds at most one lease; an
evaluation has at most one active attempt; nothing is leased again while a worker that may still
hold it is within its grace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from apbmm_common.runfile import RunSpec

from apbmm_master.fleet import Fleet, Worker
from apbmm_master.ledger import Attempt, Evaluation, Ledger
from apbmm_master.lifecycle import (
    AttemptState,
    EvaluationState,
    Liveness,
    liveness,
    orphan_deadline,
)

ORDER = {"measure": 0, "reference": 1, "initial": 2, "search": 3}
VECTOR_FAULTS_ALLOWED = 1


@dataclass(frozen=True)
class GiveUpLease:
    """The lease's worker will not deliver: queue the evaluation again."""

    evaluation: str
    lease: str
    reason: str


@dataclass(frozen=True)
class Fail:
    """The vector failed for its own reasons too often."""

    evaluation: str
    message: str


@dataclass(frozen=True)
class Give:
    """Lease an evaluation to an idle worker; ``fresh`` asks for a new engine."""

    evaluation: str
    worker: str
    fresh: bool


@dataclass(frozen=True)
class Ask:
    """Ask the algorithm for this many vectors."""

    count: int


@dataclass(frozen=True)
class Finish:
    """The run is over. ``failed`` when it ended without spending its budget."""

    reason: str
    failed: bool = False


Decision = GiveUpLease | Fail | Give | Ask | Finish


@dataclass(frozen=True)
class Moment:
    """The instant a decision is made in: monotonic seconds."""

    now: float
    epoch_began: float
    asking: bool
    exhausted: bool
    batch: int | None
    draining: bool


def decide(ledger: Ledger, fleet: Fleet, moment: Moment) -> list[Decision]:
    """Every decision that is due now, the most urgent first."""
    spec = ledger.spec
    assert spec is not None
    decisions: list[Decision] = list(_lost_leases(ledger, fleet, spec, moment))
    decisions += _hopeless(ledger)
    end = _end(ledger, spec, moment)
    if end is not None:
        return [*decisions, end]
    if moment.draining:
        return decisions
    idle = idle_workers(ledger, fleet, moment)
    given = _give(ledger, fleet, idle)
    left = len(idle) - len(given)
    decisions += given
    ask = _ask(ledger, spec, moment, left)
    return [*decisions, ask] if ask else decisions


def silence(worker: Worker | None, attempt: Attempt, ledger: Ledger, moment: Moment) -> float:
    """Seconds since the attempt's worker was last heard in this epoch."""
    if worker is not None and worker.boot == attempt.boot:
        return moment.now - worker.heard
    return moment.now - moment.epoch_began


def idle_workers(ledger: Ledger, fleet: Fleet, moment: Moment) -> list[Worker]:
    """Workers that may work, are heard, and hold nothing, by name."""
    assert ledger.spec is not None
    silent = ledger.spec.timings.suspect
    busy = {attempt.worker for _, attempt in ledger.active_attempts()}
    return [
        worker
        for _, worker in sorted(fleet.workers.items())
        if worker.may_work
        and moment.now - worker.heard < silent
        and worker.name not in busy
        and not worker.held
        and not worker.delivering
    ]


def _lost_leases(
    ledger: Ledger, fleet: Fleet, spec: RunSpec, moment: Moment
) -> Iterator[GiveUpLease]:
    durations = [e.seconds for e in ledger.of_state(EvaluationState.DONE)]
    deadline = orphan_deadline(durations, spec.timings)
    for evaluation, attempt in ledger.active_attempts():
        worker = fleet.workers.get(attempt.worker)
        if worker is not None and attempt.lease in worker.delivering:
            continue
        if worker is not None and worker.boot != attempt.boot:
            yield GiveUpLease(evaluation.id, attempt.lease, f"{worker.name} was started anew")
            continue
        heard_now = worker is not None
        limit = deadline if heard_now or attempt.epoch == ledger.epoch else spec.timings.reconcile
        if silence(worker, attempt, ledger, moment) >= limit:
            yield GiveUpLease(evaluation.id, attempt.lease, f"{attempt.worker} was not heard again")


def _hopeless(ledger: Ledger) -> list[Fail]:
    return [
        Fail(e.id, e.attempts[-1].message)
        for e in ledger.of_state(EvaluationState.QUEUED)
        if e.vector_faults > VECTOR_FAULTS_ALLOWED
    ]


def _end(ledger: Ledger, spec: RunSpec, moment: Moment) -> Finish | None:
    if ledger.finished:
        return None
    for evaluation in ledger.of_state(EvaluationState.FAILED):
        if not evaluation.counts:
            return Finish(f"{evaluation.id} could not be measured: {evaluation.message}", True)
    failures = len(ledger.counted(EvaluationState.FAILED))
    if failures > spec.budget.failures:
        return Finish(f"{failures} vectors failed, more than the budget allows", True)
    if any(True for _ in ledger.active_attempts()) or not ledger.references_done:
        return None
    done = len(ledger.counted(EvaluationState.DONE))
    if done >= spec.budget.evaluations:
        return Finish(f"{done} evaluations completed")
    nothing_left = moment.exhausted and not ledger.of_state(EvaluationState.QUEUED)
    if nothing_left and not moment.asking:
        return Finish(f"the method has no more to try after {done} evaluations")
    return None


def _give(ledger: Ledger, fleet: Fleet, idle: list[Worker]) -> list[Give]:
    in_hand = {lease for worker in fleet.workers.values() for lease in worker.held}
    queue = [
        e
        for e in ledger.of_state(EvaluationState.QUEUED)
        if e.vector_faults <= VECTOR_FAULTS_ALLOWED
        and not any(attempt.lease in in_hand for attempt in e.attempts)
    ]
    queue.sort(key=lambda e: ORDER[e.purpose])
    free = list(idle)
    given: list[Give] = []
    able = sum(worker.may_work for worker in fleet.workers.values())
    for evaluation in queue:
        if not free:
            break
        worker = _suited(evaluation, free, able)
        if worker is None:
            continue
        free.remove(worker)
        given.append(Give(evaluation.id, worker.name, fresh=_failed_on(evaluation, worker)))
    return given


def _suited(evaluation: Evaluation, free: list[Worker], able: int) -> Worker | None:
    """A free worker that has not failed it; one that has only where no other could take it."""
    untried = [worker for worker in free if not _failed_on(evaluation, worker)]
    if untried:
        return untried[0]
    tried_by = {a.worker for a in evaluation.attempts if a.state is AttemptState.FAILED}
    return free[0] if able <= len(tried_by) else None


def _failed_on(evaluation: Evaluation, worker: Worker) -> bool:
    return any(
        a.worker == worker.name and a.state is AttemptState.FAILED for a in evaluation.attempts
    )


def _ask(ledger: Ledger, spec: RunSpec, moment: Moment, idle: int) -> Ask | None:
    if moment.asking or moment.exhausted or ledger.layers == 0:
        return None
    if not idle and not (initial_missing(ledger, spec) and not ledger.asks):
        return None
    taken = len(
        ledger.counted(EvaluationState.DONE, EvaluationState.ACTIVE, EvaluationState.QUEUED)
    )
    room = spec.budget.evaluations - taken
    if room <= 0:
        return None
    if initial_missing(ledger, spec):
        return Ask(min(initial_missing(ledger, spec), room))
    if not (ledger.references_done and _measured(ledger)):
        return None
    return Ask(min(moment.batch or idle, room))


def _measured(ledger: Ledger) -> bool:
    measure = ledger.evaluations.get("measure")
    return measure is None or measure.state is EvaluationState.DONE


def initial_missing(ledger: Ledger, spec: RunSpec) -> int:
    """Vectors of the initial design that are still to be proposed."""
    proposed = sum(e.purpose == "initial" for e in ledger.evaluations.values())
    failed = sum(e.purpose == "initial" for e in ledger.of_state(EvaluationState.FAILED))
    return max(0, spec.budget.initial - (proposed - failed))


def attempt_liveness(ledger: Ledger, fleet: Fleet, attempt: Attempt, moment: Moment) -> Liveness:
    """How the worker of an active attempt is judged now."""
    assert ledger.spec is not None
    worker = fleet.workers.get(attempt.worker)
    return liveness(silence(worker, attempt, ledger, moment), ledger.spec.timings)
