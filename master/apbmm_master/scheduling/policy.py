"""Decides what the master does next, from run state and fleet. Pure: no clock, socket or file.

Invariants of the scheduler, in this module and in `leases` and `message_handlers`:

1. A lease is committed to the journal before its ASSIGN is sent.
2. A worker holds at most one lease whose answers are awaited. It holds another one only where all
   answers to that are in, and only its report is still made.
3. An evaluation has at most one active attempt.
4. An evaluation is not leased again before its last attempt has ended. An attempt ends by a result,
   a failure, a DECLINE or a BYE, or because its worker is lost: it no longer holds the lease, was
   silent for the deadline of `lifecycle.orphan_deadline`, was started anew, or had its key revoked.
   An evaluation is not leased either while a connected worker still works on an earlier attempt.
5. The first valid result of an evaluation is its only one. A result is acknowledged only after the
   commit that records it.
6. An evaluation that counts against the budget is leased only while every limit of the budget
   leaves room beside what is spent and in progress (`journal.costs.budget`), and while the
   hypervolume grows (`journal.costs.patience`). A reference or the measurement is leased only while
   no limit of GPU-hours or tokens is spent.
   A merge that has paused goes on while something is left of every limit. Once the run is
   finishing, no other merge is begun, and paused ones go on while that makes the hypervolume grow.
7. An evaluation that failed gets no further attempt. Its vector is avoided by the search and its
   place in the budget goes to another vector.
8. A worker that found a fault of the data or the run file gets nothing more, until the evaluation
   that it failed is done. The run ends (`run_file_fault`) when another worker finds one too.
9. Nothing is leased once the run is to end with an error (`fault_that_ends`).

The transitions of evaluations and attempts are the tables of `journal.lifecycle`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from apbmm_common.errors import ApbmmError, RunFileError
from apbmm_common.run_file import RunSpec
from apbmm_master.journal.assessment.first_steps import (
    WHOLE,
    Step,
    may_estimate,
    measures_in_steps,
    step_of,
)
from apbmm_master.journal.assessment.reference_judgement import judge_references
from apbmm_master.journal.costs.budget import LimitName, limits, reached, reached_cost, room
from apbmm_master.journal.lifecycle import (
    EvaluationState,
    Liveness,
    liveness,
    orphan_deadline,
)
from apbmm_master.journal.state.evaluations import MEASURE, Attempt, Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.scheduling.estimated_merges import (
    EstimatedMerge,
    beaten,
    kept_for_completion,
    next_to_complete,
)
from apbmm_master.scheduling.fleet import Fleet, Worker
from apbmm_master.scheduling.merges_in_progress import beaten_in_progress
from apbmm_master.search.arrays import Array

BEATEN = "a measured merge beats whatever it still answers"
INFEASIBLE = "it breaks a constraint whatever it still answers"
WAIT_WORTH_AVOIDING = 0.005
"""No vector is prefetched while an ask takes a smaller share of an evaluation's time than this."""
PAPER_WORKERS = 4
"""Workers in the paper's experiments.

A prefetched vector is chosen without the latest results. So a fleet of the paper's size gets none,
and each further `PAPER_WORKERS` workers allow one.
"""


@dataclass(frozen=True)
class GiveUpLease:
    """Withdraw a lease whose worker is lost; the evaluation is queued again."""

    evaluation: str
    lease: str
    reason: str


@dataclass(frozen=True)
class RemoveWorker:
    """Forget an unreachable worker that holds no lease."""

    worker: str


@dataclass(frozen=True)
class FailEvaluation:
    """Give an evaluation no further attempt; see `Evaluation.reason_to_give_up`."""

    evaluation: str
    message: str


@dataclass(frozen=True)
class GrantLease:
    """Lease an evaluation to an idle worker."""

    evaluation: str
    worker: str
    step: Step = WHOLE


@dataclass(frozen=True)
class EndAttempt:
    """Have a worker end a lease with what is answered, for a reason."""

    evaluation: str
    lease: str
    reason: str


@dataclass(frozen=True)
class StopEvaluation:
    """Never go on with a merge that has paused, for a reason."""

    evaluation: str
    reason: str


@dataclass(frozen=True)
class BeginFinishing:
    """From now on complete merges that have paused and begin no other, for a reason.

    ``by_patience`` as in the event `Finishing`.
    """

    reason: str
    by_patience: bool = False


@dataclass(frozen=True)
class AskForVectors:
    """Ask the search method for ``count`` vectors."""

    count: int


@dataclass(frozen=True)
class FinishRun:
    """End the run; ``failed`` where that is because too much of it failed.

    ``by_patience`` as in the event `Finished`.
    """

    reason: str
    failed: bool = False
    by_patience: bool = False


Kept = Mapping[LimitName, float]
"""What of each limit is kept to complete merges that have paused."""
Decision = (
    GiveUpLease
    | RemoveWorker
    | FailEvaluation
    | GrantLease
    | EndAttempt
    | StopEvaluation
    | BeginFinishing
    | AskForVectors
    | FinishRun
)


@dataclass(frozen=True)
class Situation:
    """What a decision depends on beside run state and fleet.

    - ``now``: seconds on the monotonic clock.
    - ``listening_since``: when this master began to listen, on the same clock.
    - ``asking``: an ask or an estimate is in progress, or the search method waits for a further
      result.
    - ``exhausted``: the search method will propose nothing more.
    - ``batch``: vectors that a synchronous method proposes at a time; None for an asynchronous one.
    - ``draining``: nothing new is to be started.
    - ``ask_seconds``: duration of the last ask; 0 before the first.
    - ``stalled``: why the run's patience is at an end, in words; "" while it is not.
    - ``estimated``: the merges that have paused and are estimated, those that go on now included.
    - ``reachable``: by evaluation, the best objectives (m,) that merges in progress can still have.
    - ``measured`` (n, m): objectives of the front of the merges that are measured in full.
    """

    now: float
    listening_since: float
    asking: bool
    exhausted: bool
    batch: int | None
    draining: bool
    ask_seconds: float = 0.0
    stalled: str = ""
    estimated: tuple[EstimatedMerge, ...] = ()
    reachable: Mapping[str, Array] = field(default_factory=dict, compare=False)
    measured: Array = field(default_factory=lambda: np.zeros((0, 2)), compare=False)

    @property
    def paused(self) -> list[EstimatedMerge]:
        """Those of ``estimated`` that nobody measures now."""
        return [m for m in self.estimated if m.evaluation.state is EvaluationState.PAUSED]


def decide(run_state: RunState, fleet: Fleet, situation: Situation) -> list[Decision]:
    """All decisions that are due now, in the order in which they are to be carried out."""
    spec = run_state.spec
    assert spec is not None
    decisions: list[Decision] = list(_lost_leases(run_state, fleet, spec, situation))
    decisions += _unreachable(run_state, fleet, spec, situation)
    decisions += _failed_for_good(run_state)
    decisions += _beaten(run_state, situation)
    end = _end(run_state, spec, situation)
    if end is not None:
        return [*decisions, end]
    if situation.draining or fault_that_ends(run_state, fleet) is not None:
        return decisions
    kept = _kept(run_state, situation)
    turns = _turns(run_state, situation, kept)
    if turns:
        return [*decisions, *turns]
    idle = idle_workers(run_state, fleet, situation)
    given = _grant_leases(run_state, fleet, idle, situation, kept)
    decisions += given
    ask = _ask(run_state, spec, situation, len(idle), len(given), kept)
    return [*decisions, ask] if ask else decisions


def silence(worker: Worker | None, attempt: Attempt, situation: Situation) -> float:
    """Seconds since this master last heard the attempt's worker, or since it began to listen."""
    if worker is not None and _answers_for(worker, attempt):
        return situation.now - worker.heard
    return situation.now - situation.listening_since


def _answers_for(worker: Worker, attempt: Attempt) -> bool:
    """Whether this boot was given the attempt, or has its result in the outbox."""
    return worker.boot == attempt.boot or attempt.lease in worker.delivering


def idle_workers(run_state: RunState, fleet: Fleet, situation: Situation) -> list[Worker]:
    """Workers that could begin an evaluation now, sorted by name.

    A worker that still makes the report of its last one is idle: its engine is.
    """
    free = []
    for name, worker in fleet.workers.items():
        reported = run_state.reported_by(name)
        done = {reported[1].lease} if reported is not None else set()
        if run_state.held_by(name) is None and worker.held <= done and not worker.delivering:
            free.append(worker)
    return _able(free, run_state, situation)


def able_workers(run_state: RunState, fleet: Fleet, situation: Situation) -> list[Worker]:
    """Workers that may work and are not suspect, busy or not, sorted by name."""
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
        # A worker of an earlier master that this one has not heard gets less time to come back.
        heard = worker is not None or attempt.epoch == run_state.epoch
        limit = deadline if heard else spec.timings.reconcile
        if silence(worker, attempt, situation) >= limit:
            yield GiveUpLease(evaluation.id, attempt.lease, f"{attempt.worker} was not heard again")


def _unreachable(
    run_state: RunState, fleet: Fleet, spec: RunSpec, situation: Situation
) -> Iterator[RemoveWorker]:
    limit = spec.timings.unreachable
    for worker in fleet.workers.values():
        if situation.now - worker.heard >= limit and not run_state.work_of(worker.name):
            yield RemoveWorker(worker.name)


def _failed_for_good(run_state: RunState) -> Iterator[FailEvaluation]:
    waiting = (EvaluationState.QUEUED, EvaluationState.PAUSED)
    for evaluation in run_state.with_failed_attempts():
        if evaluation.state in waiting and evaluation.reason_to_give_up:
            yield FailEvaluation(evaluation.id, evaluation.reason_to_give_up)


def _beaten(run_state: RunState, situation: Situation) -> Iterator[EndAttempt]:
    for evaluation, attempt in beaten_in_progress(
        run_state, situation.reachable, situation.measured
    ):
        reason = _why_stopped(situation.reachable[evaluation.id])
        yield EndAttempt(evaluation.id, attempt.lease, reason)


def _why_stopped(best: Array) -> str:
    """Why a merge that can become ``best`` (m,) at the best is no member of the front."""
    return BEATEN if np.isfinite(best).all() else INFEASIBLE


def _end(run_state: RunState, spec: RunSpec, situation: Situation) -> FinishRun | None:
    if run_state.finished:
        return None
    failure = _failure(run_state, spec)
    if failure is not None:
        return failure
    if any(True for _ in run_state.active_attempts()):
        return None
    if not run_state.references_done:
        return _spent_without_references(run_state)
    return _success(run_state, situation)


def _success(run_state: RunState, situation: Situation) -> FinishRun | None:
    """The end of a run that has done what it was to do, when nothing is in progress."""
    done = run_state.count(EvaluationState.DONE)
    in_part = run_state.count(EvaluationState.PAUSED, EvaluationState.STOPPED)
    completed = f"{done} evaluations completed"
    if in_part:
        completed += f", {in_part} merge{'s' if in_part > 1 else ''} measured in part"
    limit = reached(run_state)
    if limit is not None:
        is_number = limit.name == "evaluations"
        return FinishRun(completed if is_number else f"{limit.in_words} are spent, {completed}")
    if run_state.finishing:
        return _end_of_finishing(run_state, situation, completed)
    if _has_steps(run_state):  # `_turns` begins the finishing first
        return None
    if situation.stalled:
        return FinishRun(f"{situation.stalled}, {completed}", by_patience=True)
    if _has_no_more_to_try(run_state, situation):
        return FinishRun(f"the method has no more to try after {done} evaluations")
    return None


def _end_of_finishing(
    run_state: RunState, situation: Situation, completed: str
) -> FinishRun | None:
    """The end of a run that only completes paused merges; None while it goes on."""
    if not _is_finished(run_state, situation):
        return None
    by_patience = bool(situation.stalled) or run_state.by_patience
    reason = situation.stalled or run_state.finishing
    return FinishRun(f"{reason}: {completed}", by_patience=by_patience)


def _has_steps(run_state: RunState) -> bool:
    """Whether merges are measured in steps, or some have paused that are to be completed."""
    return measures_in_steps(run_state) or run_state.count(EvaluationState.PAUSED) > 0


def _is_finished(run_state: RunState, situation: Situation) -> bool:
    """Whether no merge goes on that has paused, or was begun, when nothing is in progress."""
    if room(run_state) > 0 and _begun(run_state):
        return False
    if situation.stalled:
        return True
    if any(e.estimate is None for e in run_state.of_state(EvaluationState.PAUSED)):
        return False  # they are decided on once they are estimated
    return next_to_complete(run_state, situation.paused, (), situation.measured) is None


def _begun(run_state: RunState) -> list[Evaluation]:
    """Merges in the queue of which an attempt has ended without a result."""
    queued = run_state.of_budget(EvaluationState.QUEUED)
    return [e for e in queued if e.attempts and not e.reason_to_give_up]


def _kept(run_state: RunState, situation: Situation) -> Kept:
    """`kept_for_completion`; nothing where no merge has paused, or once the run is finishing."""
    if run_state.finishing or not situation.estimated:
        return {}
    return kept_for_completion(run_state, situation.paused, situation.measured)


def _turns(run_state: RunState, situation: Situation, kept: Kept) -> list[Decision]:
    """Decisions after which the others are to be taken anew: what stops, and whether to finish."""
    if not (run_state.references_done and _has_steps(run_state)):
        return []
    stops: list[Decision] = [
        StopEvaluation(merge.evaluation.id, _why_stopped(merge.best))
        for merge in beaten(situation.paused, situation.measured)
    ]
    if stops or run_state.finishing:
        return stops
    finishing = _finishing(run_state, situation, kept)
    return [finishing] if finishing else []


def _finishing(run_state: RunState, situation: Situation, kept: Kept) -> BeginFinishing | None:
    """The finishing of a run that measures in steps, once it begins no further merge."""
    if any(0.0 < kept.get(limit.name, 0.0) >= limit.unused for limit in limits(run_state)):
        return BeginFinishing("the budget's rest went into the front")
    if situation.stalled:
        return BeginFinishing(situation.stalled, by_patience=True)
    if _has_no_more_to_try(run_state, situation):
        return BeginFinishing("the method has no more to try")
    return None


def _has_no_more_to_try(run_state: RunState, situation: Situation) -> bool:
    """Whether the method will propose nothing more, and all that it proposed was begun."""
    queued = any(True for _ in run_state.of_state(EvaluationState.QUEUED))
    return situation.exhausted and not queued and not situation.asking


def _spent_without_references(run_state: RunState) -> FinishRun | None:
    """The end of a run whose limit of cost is spent before it has anything to scale by."""
    limit = reached_cost(run_state)
    if limit is None:
        return None
    return FinishRun(
        f"{limit.in_words} are spent before all references were measured (hint: raise "
        f"budget.{limit.name}, and the same command goes on)",
        True,
    )


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


def _grant_leases(
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
    still_held = {lease for worker in fleet.workers.values() for lease in worker.held}
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
    queue = _in_order(run_state)
    if reached_cost(run_state) is None:
        yield from (evaluation for evaluation in queue if not evaluation.in_budget)
    if run_state.finishing:
        if room(run_state) > 0:
            yield from _begun(run_state)
        if not situation.stalled:
            yield from _merges_to_complete(run_state, situation, given)
        return
    if room(run_state) > 0 and may_estimate(run_state):
        yield from (merge.evaluation for merge in situation.paused if merge.audited)
    elif room(run_state) > 0:  # nothing will ever be decided on them
        yield from run_state.of_budget(EvaluationState.PAUSED)
    left = _room(run_state, situation, kept)
    for evaluation in queue:
        if evaluation.in_budget and left > 0:
            before = len(given)
            yield evaluation
            left -= len(given) - before


def _room(run_state: RunState, situation: Situation, kept: Kept, queued: int = 0) -> float:
    """How many merges may be begun beside so many that are queued, before the run's end."""
    return 0.0 if situation.stalled else room(run_state, queued, kept)


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


def _in_order(run_state: RunState) -> list[Evaluation]:
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


def _worker_that_has_not_failed(evaluation: Evaluation, free: list[Worker]) -> Worker | None:
    """A free worker that has not failed it."""
    return next((worker for worker in free if not evaluation.failed_on(worker.name)), None)


def _failed_on_all(evaluation: Evaluation, able: list[Worker]) -> bool:
    """Whether every worker that may work has failed it, so that one of them may try again."""
    return all(evaluation.failed_on(worker.name) for worker in able)


def _ask(
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
    left = _room(run_state, situation, kept, queued)
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


def attempt_liveness(
    run_state: RunState, fleet: Fleet, attempt: Attempt, situation: Situation
) -> Liveness:
    """How the worker of an active attempt is judged now."""
    assert run_state.spec is not None
    worker = fleet.workers.get(attempt.worker)
    return liveness(silence(worker, attempt, situation), run_state.spec.timings)


def fault_that_ends(run_state: RunState, fleet: Fleet) -> ApbmmError | None:
    """The error that a run ends with whatever is left of its budget; None while it goes on.

    It is that of `judge_references` or of `run_file_fault`.
    """
    if run_state.finished:
        return None
    try:
        judge_references(run_state)
    except ApbmmError as error:
        return error
    return run_file_fault(run_state, fleet)


def run_file_fault(run_state: RunState, fleet: Fleet) -> RunFileError | None:
    """The error that a run ends with for a fault of its data or run file; None without one.

    The workers' questions have equal digests, but their other columns and their software may
    differ. So the word of one worker counts only where no other worker may contradict it. What a
    worker finds wrong while it prepares counts only while no worker is ready.
    """
    found = _preparation_faults(fleet)
    for name, (evaluation, attempt) in run_state.data_faults().items():
        found[name] = f"{evaluation.id} on {name}", str(ApbmmError(attempt.message, attempt.hint))
    others = [w for w in fleet.workers.values() if w.name not in found and w.may_still_work]
    if not found or (others and len(found) == 1):
        return None
    return RunFileError(
        "the data or the run file is at fault:",
        "mend it, and the same command goes on; everything measured is recorded. A changed run "
        "file may need a new run: another --run-dir",
        _by_reason(found[name] for name in sorted(found)),
    )


def _preparation_faults(fleet: Fleet) -> dict[str, tuple[str, str]]:
    """What each worker found wrong while it prepared; empty where a worker is ready."""
    if any(worker.stage == "ready" for worker in fleet.workers.values()):
        return {}
    return {
        worker.name: (worker.name, worker.unfit)
        for worker in fleet.workers.values()
        if worker.stage == "unfit" and worker.unfit_fault == "run_file"
    }


def standstill(run_state: RunState, fleet: Fleet) -> str:
    """Why no worker of the fleet can work although there are some; empty while one can.

    It has a line for each reason.
    """
    blocked = [worker for worker in fleet.workers.values() if worker.is_blocked]
    if run_state.finished or not blocked or len(blocked) < len(fleet.workers):
        return ""
    if any(True for _ in run_state.active_attempts()):
        return ""
    reasons = _by_reason(
        (f"{worker.name} (quarantined)", worker.quarantined)
        if worker.quarantined
        else (f"{worker.name} (unfit)", worker.unfit)
        for worker in sorted(blocked, key=lambda worker: worker.name)
    )
    return "\n  ".join(
        [
            "the run waits, for none of its workers can go on:",
            *reasons,
            "(hint: mend what they complain of. An unfit worker reads its files again every 30 s, "
            "and restarting a worker ends its quarantine. Others may join at any time)",
        ]
    )


def _by_reason(found: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each reason, after all that have it, from pairs of these and their reasons."""
    lines: dict[str, list[str]] = {}
    for name, reason in found:
        lines.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in lines.items()]
