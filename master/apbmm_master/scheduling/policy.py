"""What to do next, decided from run state and fleet. Pure: no clock, socket or file of its own.

Invariants: a lease is committed before it is sent; a worker holds at most one lease; an
evaluation has at most one active attempt; nothing is leased again while a worker that may still
hold it is within its grace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil

from apbmm_common.run_file import RunSpec
from apbmm_master.journal.evaluations import MEASURE, Attempt, Evaluation
from apbmm_master.journal.lifecycle import (
    EvaluationState,
    Liveness,
    liveness,
    orphan_deadline,
)
from apbmm_master.journal.run_state import RunState
from apbmm_master.scheduling.fleet import Fleet, Worker

WAIT_WORTH_AVOIDING = 0.005
"""Share of an evaluation's time that an idle worker may wait for its vector."""
PAPER_WORKERS = 4
"""A vector ahead of need is chosen without the latest results. For a fleet as small as the paper's
there are none; for so many workers more, there may be one."""


@dataclass(frozen=True)
class GiveUpLease:
    """The lease's worker will not deliver: queue the evaluation again."""

    evaluation: str
    lease: str
    reason: str


@dataclass(frozen=True)
class RemoveWorker:
    """The worker is unreachable and nothing is expected of it: it is not here any more."""

    worker: str


@dataclass(frozen=True)
class FailEvaluation:
    """The evaluation gets no further attempt, for its vector's reasons or lost workers."""

    evaluation: str
    message: str


@dataclass(frozen=True)
class GrantLease:
    """Lease an evaluation to an idle worker."""

    evaluation: str
    worker: str


@dataclass(frozen=True)
class AskForVectors:
    """Ask the algorithm for this many vectors."""

    count: int


@dataclass(frozen=True)
class FinishRun:
    """The run is over. ``failed`` when it ended without spending its budget."""

    reason: str
    failed: bool = False


Decision = GiveUpLease | RemoveWorker | FailEvaluation | GrantLease | AskForVectors | FinishRun


@dataclass(frozen=True)
class Situation:
    """The instant a decision is made in: monotonic seconds.

    ``listening_since``: from when on every worker's silence is known. ``ask_seconds``: how long the
    last ask took; 0 before there was one.
    """

    now: float
    listening_since: float
    asking: bool
    exhausted: bool
    batch: int | None
    draining: bool
    ask_seconds: float = 0.0


def decide(run_state: RunState, fleet: Fleet, situation: Situation) -> list[Decision]:
    """Every decision that is due now, the most urgent first."""
    spec = run_state.spec
    assert spec is not None
    decisions: list[Decision] = list(_lost_leases(run_state, fleet, spec, situation))
    decisions += _unreachable(run_state, fleet, spec, situation)
    decisions += _hopeless(run_state)
    end = _end(run_state, spec, situation)
    if end is not None:
        return [*decisions, end]
    if situation.draining:
        return decisions
    idle = idle_workers(run_state, fleet, situation)
    given = _give(run_state, fleet, idle, situation)
    decisions += given
    ask = _ask(run_state, spec, situation, len(idle), len(given))
    return [*decisions, ask] if ask else decisions


def silence(worker: Worker | None, attempt: Attempt, situation: Situation) -> float:
    """Seconds since the attempt's worker was last heard by this master."""
    if worker is not None and _answers_for(worker, attempt):
        return situation.now - worker.heard
    return situation.now - situation.listening_since


def _answers_for(worker: Worker, attempt: Attempt) -> bool:
    """Whether this boot has the attempt in hand, or its result in the outbox."""
    return worker.boot == attempt.boot or attempt.lease in worker.delivering


def idle_workers(run_state: RunState, fleet: Fleet, situation: Situation) -> list[Worker]:
    """Workers that may work, are heard, and hold nothing, by name."""
    free = [
        worker
        for name, worker in fleet.workers.items()
        if run_state.held_by(name) is None and not worker.held and not worker.delivering
    ]
    return _able(free, run_state, situation)


def able_workers(run_state: RunState, fleet: Fleet, situation: Situation) -> list[Worker]:
    """Workers that may work and are heard, by name."""
    return _able(fleet.workers.values(), run_state, situation)


def _able(workers: Iterable[Worker], run_state: RunState, situation: Situation) -> list[Worker]:
    assert run_state.spec is not None
    heard = situation.now - run_state.spec.timings.suspect
    able = [worker for worker in workers if worker.heard > heard and worker.may_work]
    return sorted(able, key=lambda worker: worker.name)


def _lost_leases(
    run_state: RunState, fleet: Fleet, spec: RunSpec, situation: Situation
) -> Iterator[GiveUpLease]:
    deadline = orphan_deadline(run_state.durations, spec.timings)
    for evaluation, attempt in run_state.active_attempts():
        worker = fleet.workers.get(attempt.worker)
        if worker is not None and not _answers_for(worker, attempt):
            yield GiveUpLease(evaluation.id, attempt.lease, f"{worker.name} was started anew")
            continue
        heard_now = worker is not None
        limit = (
            deadline if heard_now or attempt.epoch == run_state.epoch else spec.timings.reconcile
        )
        if silence(worker, attempt, situation) >= limit:
            yield GiveUpLease(evaluation.id, attempt.lease, f"{attempt.worker} was not heard again")


def _unreachable(
    run_state: RunState, fleet: Fleet, spec: RunSpec, situation: Situation
) -> Iterator[RemoveWorker]:
    limit = spec.timings.unreachable
    silent = [w for w in fleet.workers.values() if situation.now - w.heard >= limit]
    if silent:
        yield from (RemoveWorker(w.name) for w in silent if run_state.held_by(w.name) is None)


def _hopeless(run_state: RunState) -> Iterator[FailEvaluation]:
    for evaluation in run_state.with_failed_attempts():
        if evaluation.state is EvaluationState.QUEUED and evaluation.reason_to_give_up:
            yield FailEvaluation(evaluation.id, evaluation.reason_to_give_up)


def _end(run_state: RunState, spec: RunSpec, situation: Situation) -> FinishRun | None:
    if run_state.finished:
        return None
    failure = _failure(run_state, spec)
    if failure is not None:
        return failure
    if any(True for _ in run_state.active_attempts()) or not run_state.references_done:
        return None
    done = run_state.count(EvaluationState.DONE)
    if done >= spec.budget.evaluations:
        return FinishRun(f"{done} evaluations completed")
    queued = any(True for _ in run_state.of_state(EvaluationState.QUEUED))
    if situation.exhausted and not queued and not situation.asking:
        return FinishRun(f"the method has no more to try after {done} evaluations")
    return None


def _failure(run_state: RunState, spec: RunSpec) -> FinishRun | None:
    """The end of a run with a failed reference, or with more failures than its budget allows.

    An evaluation that failed because its workers were lost is left out of the count: the master
    cannot tell a merge that takes hosts down from a fleet that is preempted often, and preemption
    must not end a run. The budget's place of such an evaluation goes to another vector.
    """
    failures = 0
    for evaluation in run_state.of_state(EvaluationState.FAILED):
        if not evaluation.in_budget:
            return FinishRun(f"{evaluation.id} could not be measured: {evaluation.message}", True)
        failures += not evaluation.failed_by_lost_workers
    if failures > spec.budget.failures:
        return FinishRun(f"{failures} vectors failed, more than the budget allows", True)
    return None


def _give(
    run_state: RunState, fleet: Fleet, idle: list[Worker], situation: Situation
) -> list[GrantLease]:
    """Leases for the idle workers, in their turn and within the budget."""
    assert run_state.spec is not None
    if not idle:
        return []
    free = list(idle)
    given: list[GrantLease] = []
    in_hand = {lease for worker in fleet.workers.values() for lease in worker.held}
    room = run_state.spec.budget.evaluations - run_state.count(
        EvaluationState.DONE, EvaluationState.ACTIVE
    )
    for evaluation in run_state.of_state(EvaluationState.QUEUED):
        if not free:
            break
        if evaluation.reason_to_give_up or (evaluation.in_budget and room <= 0):
            continue
        if any(attempt.lease in in_hand for attempt in evaluation.attempts):
            continue
        worker = _suited(evaluation, free)
        if worker is None and _failed_on_all(evaluation, able_workers(run_state, fleet, situation)):
            worker = free[0]
        if worker is not None:
            free.remove(worker)
            given.append(GrantLease(evaluation.id, worker.name))
            room -= evaluation.in_budget
    return given


def _suited(evaluation: Evaluation, free: list[Worker]) -> Worker | None:
    """A free worker that has not failed it."""
    return next((worker for worker in free if not evaluation.failed_on(worker.name)), None)


def _failed_on_all(evaluation: Evaluation, able: list[Worker]) -> bool:
    """Whether no other worker could take it, so that one that has failed it may try again."""
    return all(evaluation.failed_on(worker.name) for worker in able)


def _ask(
    run_state: RunState, spec: RunSpec, situation: Situation, idle: int, given: int
) -> AskForVectors | None:
    """What to ask for when ``given`` of the ``idle`` workers get a vector that is queued."""
    if situation.asking or situation.exhausted or run_state.layers == 0:
        return None
    missing = initial_missing(run_state, spec)
    wanted = idle - given
    if not missing and situation.batch is None:
        ready = run_state.count(EvaluationState.QUEUED) - given
        wanted += max(0, ahead_of_need(run_state, situation.ask_seconds, idle) - ready)
    if not wanted and (run_state.asks or not missing):
        return None
    room = spec.budget.evaluations - run_state.count(
        EvaluationState.DONE, EvaluationState.ACTIVE, EvaluationState.QUEUED
    )
    if room <= 0:
        return None
    if missing:
        return AskForVectors(min(missing, room))
    if not (run_state.references_done and _measured(run_state)):
        return None
    return AskForVectors(min(situation.batch or wanted, room))


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


def _measured(run_state: RunState) -> bool:
    measure = run_state.evaluations.get(MEASURE)
    return measure is None or measure.state is EvaluationState.DONE


def initial_missing(run_state: RunState, spec: RunSpec) -> int:
    """Vectors of the initial design that are still to be proposed.

    A point that fails is replaced, but not once the search has begun, which need not wait for the
    whole design (see `Search._can_propose`).
    """
    if run_state.count(purposes=("search",)):
        return 0
    proposed = run_state.count(purposes=("initial",))
    failed = run_state.count(EvaluationState.FAILED, purposes=("initial",))
    return max(0, spec.budget.initial - (proposed - failed))


def attempt_liveness(
    run_state: RunState, fleet: Fleet, attempt: Attempt, situation: Situation
) -> Liveness:
    """How the worker of an active attempt is judged now."""
    assert run_state.spec is not None
    worker = fleet.workers.get(attempt.worker)
    return liveness(silence(worker, attempt, situation), run_state.spec.timings)


def standstill(run_state: RunState, fleet: Fleet) -> str:
    """Why nothing goes on although workers are there; empty while something does or can."""
    blocked = [w for w in fleet.workers.values() if w.quarantined or w.stage == "unfit"]
    if run_state.finished or not blocked or len(blocked) < len(fleet.workers):
        return ""
    if any(True for _ in run_state.active_attempts()):
        return ""
    blocked.sort(key=lambda worker: worker.name)
    names = ", ".join(f"{w.name} ({'quarantined' if w.quarantined else 'unfit'})" for w in blocked)
    return (
        f"the run waits, for none of its workers can go on: {names} "
        "(hint: mend what the workers complain of; restarting one ends its quarantine, others may "
        "join at any time)"
    )
