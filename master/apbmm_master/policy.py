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
from apbmm_master.ledger import MEASURE, Attempt, Evaluation, Ledger
from apbmm_master.lifecycle import (
    EvaluationState,
    Liveness,
    liveness,
    orphan_deadline,
)

VECTOR_FAULTS_ALLOWED = 1


@dataclass(frozen=True)
class GiveUpLease:
    """The lease's worker will not deliver: queue the evaluation again."""

    evaluation: str
    lease: str
    reason: str


@dataclass(frozen=True)
class Dismiss:
    """The worker is unreachable and nothing is expected of it: it is not here any more."""

    worker: str


@dataclass(frozen=True)
class Fail:
    """The vector failed for its own reasons too often."""

    evaluation: str
    message: str


@dataclass(frozen=True)
class Give:
    """Lease an evaluation to an idle worker."""

    evaluation: str
    worker: str


@dataclass(frozen=True)
class Ask:
    """Ask the algorithm for this many vectors."""

    count: int


@dataclass(frozen=True)
class Finish:
    """The run is over. ``failed`` when it ended without spending its budget."""

    reason: str
    failed: bool = False


Decision = GiveUpLease | Dismiss | Fail | Give | Ask | Finish


@dataclass(frozen=True)
class Moment:
    """The instant a decision is made in: monotonic seconds.

    ``listening_since``: from when on every worker's silence is known.
    """

    now: float
    listening_since: float
    asking: bool
    exhausted: bool
    batch: int | None
    draining: bool


def decide(ledger: Ledger, fleet: Fleet, moment: Moment) -> list[Decision]:
    """Every decision that is due now, the most urgent first."""
    spec = ledger.spec
    assert spec is not None
    decisions: list[Decision] = list(_lost_leases(ledger, fleet, spec, moment))
    decisions += _unreachable(ledger, fleet, spec, moment)
    decisions += _hopeless(ledger)
    end = _end(ledger, spec, moment)
    if end is not None:
        return [*decisions, end]
    if moment.draining:
        return decisions
    idle = idle_workers(ledger, fleet, moment)
    given = _give(ledger, fleet, idle, moment)
    left = len(idle) - len(given)
    decisions += given
    ask = _ask(ledger, spec, moment, left)
    return [*decisions, ask] if ask else decisions


def silence(worker: Worker | None, attempt: Attempt, moment: Moment) -> float:
    """Seconds since the attempt's worker was last heard by this master."""
    if worker is not None and _answers_for(worker, attempt):
        return moment.now - worker.heard
    return moment.now - moment.listening_since


def _answers_for(worker: Worker, attempt: Attempt) -> bool:
    """Whether this boot has the attempt in hand, or its result in the outbox."""
    return worker.boot == attempt.boot or attempt.lease in worker.delivering


def idle_workers(ledger: Ledger, fleet: Fleet, moment: Moment) -> list[Worker]:
    """Workers that may work, are heard, and hold nothing, by name."""
    busy = {attempt.worker for _, attempt in ledger.active_attempts()}
    return [
        worker
        for worker in able_workers(ledger, fleet, moment)
        if worker.name not in busy and not worker.held and not worker.delivering
    ]


def able_workers(ledger: Ledger, fleet: Fleet, moment: Moment) -> list[Worker]:
    """Workers that may work and are heard, by name."""
    assert ledger.spec is not None
    silent = ledger.spec.timings.suspect
    return [
        worker
        for _, worker in sorted(fleet.workers.items())
        if worker.may_work and moment.now - worker.heard < silent
    ]


def _lost_leases(
    ledger: Ledger, fleet: Fleet, spec: RunSpec, moment: Moment
) -> Iterator[GiveUpLease]:
    deadline = orphan_deadline(ledger.durations, spec.timings)
    for evaluation, attempt in ledger.active_attempts():
        worker = fleet.workers.get(attempt.worker)
        if worker is not None and not _answers_for(worker, attempt):
            yield GiveUpLease(evaluation.id, attempt.lease, f"{worker.name} was started anew")
            continue
        heard_now = worker is not None
        limit = deadline if heard_now or attempt.epoch == ledger.epoch else spec.timings.reconcile
        if silence(worker, attempt, moment) >= limit:
            yield GiveUpLease(evaluation.id, attempt.lease, f"{attempt.worker} was not heard again")


def _unreachable(ledger: Ledger, fleet: Fleet, spec: RunSpec, moment: Moment) -> Iterator[Dismiss]:
    limit = spec.timings.unreachable
    silent = [w for w in fleet.workers.values() if moment.now - w.heard >= limit]
    if silent:
        expected = {attempt.worker for _, attempt in ledger.active_attempts()}
        yield from (Dismiss(w.name) for w in silent if w.name not in expected)


def _hopeless(ledger: Ledger) -> Iterator[Fail]:
    for evaluation in ledger.faulted():
        faults = [a for a in evaluation.attempts if a.fault == "vector"]
        if evaluation.state is EvaluationState.QUEUED and len(faults) > VECTOR_FAULTS_ALLOWED:
            yield Fail(evaluation.id, faults[-1].message)


def _end(ledger: Ledger, spec: RunSpec, moment: Moment) -> Finish | None:
    if ledger.finished:
        return None
    failure = _failure(ledger, spec)
    if failure is not None:
        return failure
    if any(True for _ in ledger.active_attempts()) or not ledger.references_done:
        return None
    done = ledger.count(EvaluationState.DONE)
    if done >= spec.budget.evaluations:
        return Finish(f"{done} evaluations completed")
    queued = any(True for _ in ledger.of_state(EvaluationState.QUEUED))
    if moment.exhausted and not queued and not moment.asking:
        return Finish(f"the method has no more to try after {done} evaluations")
    return None


def _failure(ledger: Ledger, spec: RunSpec) -> Finish | None:
    failures = 0
    for evaluation in ledger.of_state(EvaluationState.FAILED):
        if not evaluation.counts:
            return Finish(f"{evaluation.id} could not be measured: {evaluation.message}", True)
        failures += 1
    if failures > spec.budget.failures:
        return Finish(f"{failures} vectors failed, more than the budget allows", True)
    return None


def _give(ledger: Ledger, fleet: Fleet, idle: list[Worker], moment: Moment) -> list[Give]:
    """Leases for the idle workers, in the order of the proposals and within the budget."""
    assert ledger.spec is not None
    free = list(idle)
    given: list[Give] = []
    in_hand = {lease for worker in fleet.workers.values() for lease in worker.held}
    able = able_workers(ledger, fleet, moment)
    room = ledger.spec.budget.evaluations - ledger.count(
        EvaluationState.DONE, EvaluationState.ACTIVE
    )
    for evaluation in ledger.of_state(EvaluationState.QUEUED):
        if not free:
            break
        if evaluation.vector_faults > VECTOR_FAULTS_ALLOWED or (evaluation.counts and room <= 0):
            continue
        if any(attempt.lease in in_hand for attempt in evaluation.attempts):
            continue
        worker = _suited(evaluation, free, able)
        if worker is not None:
            free.remove(worker)
            given.append(Give(evaluation.id, worker.name))
            room -= evaluation.counts
    return given


def _suited(evaluation: Evaluation, free: list[Worker], able: list[Worker]) -> Worker | None:
    """A free worker that has not failed it; one that has only where no other could take it."""
    untried = [worker for worker in free if not evaluation.failed_on(worker.name)]
    if untried:
        return untried[0]
    return free[0] if all(evaluation.failed_on(worker.name) for worker in able) else None


def _ask(ledger: Ledger, spec: RunSpec, moment: Moment, idle: int) -> Ask | None:
    if moment.asking or moment.exhausted or ledger.layers == 0:
        return None
    missing = initial_missing(ledger, spec)
    if not idle and (ledger.asks or not missing):
        return None
    room = spec.budget.evaluations - ledger.count(
        EvaluationState.DONE, EvaluationState.ACTIVE, EvaluationState.QUEUED
    )
    if room <= 0:
        return None
    if missing:
        return Ask(min(missing, room))
    if not (ledger.references_done and _measured(ledger)):
        return None
    return Ask(min(moment.batch or idle, room))


def _measured(ledger: Ledger) -> bool:
    measure = ledger.evaluations.get(MEASURE)
    return measure is None or measure.state is EvaluationState.DONE


def initial_missing(ledger: Ledger, spec: RunSpec) -> int:
    """Vectors of the initial design that are still to be proposed."""
    proposed = ledger.count(purposes=("initial",))
    failed = ledger.count(EvaluationState.FAILED, purposes=("initial",))
    return max(0, spec.budget.initial - (proposed - failed))


def attempt_liveness(ledger: Ledger, fleet: Fleet, attempt: Attempt, moment: Moment) -> Liveness:
    """How the worker of an active attempt is judged now."""
    assert ledger.spec is not None
    worker = fleet.workers.get(attempt.worker)
    return liveness(silence(worker, attempt, moment), ledger.spec.timings)
