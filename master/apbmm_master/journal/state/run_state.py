"""The state of a run, computed from the events of its journal.

`RunState.apply` is the only method that changes the state. It refuses transitions that the tables
of `lifecycle` do not allow. Two run states are equal when the same events made them. The module
knows nothing of sockets, clocks or workers' liveness.

What the master looks up in every turn (counts, evaluations by state, leases in progress) is kept in
indexes, so that a turn takes no longer in a run of tens of thousands of evaluations.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from apbmm_common.protocol.messages import Evaluated, Stepped
from apbmm_common.run_file import RunSpec, Space
from apbmm_master.journal.events import (
    Accepted,
    AnswersComplete,
    AttemptEvent,
    AttemptFailed,
    Beaten,
    BordersFound,
    DuplicateResult,
    EpochStarted,
    Estimated,
    EvaluationEvent,
    EvaluationFailed,
    Finished,
    Finishing,
    FrontToConfirm,
    Leased,
    Lost,
    Paused,
    Proposed,
    Purpose,
    Record,
    ResultLearnt,
    ResultRecorded,
    RunEvent,
    RunLearnt,
    RunStarted,
    SourcesVerified,
    SpaceEvent,
    SpecChanged,
    Stopped,
)
from apbmm_master.journal.lifecycle import (
    BEGUN,
    SETTLED,
    AttemptState,
    EvaluationState,
    InvariantError,
    move_attempt,
    move_evaluation,
)
from apbmm_master.journal.state.evaluations import (
    BUDGET_PURPOSES,
    LOST_WORKERS_LIMIT,
    AskCall,
    Attempt,
    Call,
    Evaluation,
    FirstStep,
    Learning,
    TellCall,
)
from apbmm_master.journal.state.master_sessions import MasterSession
from apbmm_master.journal.state.spending import Spending, answers_complete, tokens_of
from apbmm_master.journal.state.worker_sessions import WorkerSessions

Work = tuple[Evaluation, Attempt]
"""An evaluation in progress, with its attempt."""


def recorded_spec(table: Mapping[str, Any]) -> RunSpec:
    """A run as its journal holds it.

    Journals that say nothing of beaten merges are of versions that stopped none.
    """
    steps = {"stop_beaten": False, **table.get("steps", {})}
    return RunSpec.model_validate({**table, "steps": steps})


class RunState:
    """The run as the events so far describe it."""

    def __init__(self) -> None:  # noqa: PLR0915 - a statement for each field
        self.seq, self.time = 0, 0.0
        """Number of the last event, and its time in Unix seconds, for reports and the budget."""
        self.run = ""
        self.spec: RunSpec | None = None
        self.begun, self.epoch = 0.0, 0
        """Time of the first event; number of the present master."""
        self.masters: list[MasterSession] = []
        self.pauses: list[tuple[float, float]] = []
        """Spans without a master: from the last event of one to the first of the next."""
        self.layers = 0
        self.outside: tuple[str, ...] = ()
        self.identical_layers: tuple[int, ...] = ()
        """Layers that are not searched: their tensors are the same in all sources."""
        self.parts: dict[str, tuple[int, ...]] = {}
        """Where parts of layers have weights of their own: the layers in which each is searched."""
        self.borders: tuple[int, ...] | None = None
        """Where the blocks of ``grain = "adaptive"`` begin, all but the first; None until found."""
        self.digests: dict[str, str] = {}
        self.verified_epoch = 0
        """The epoch in which the digests were read."""
        self.confirms = ""
        """Run id of the search whose merges this run confirms; empty in a search."""
        self.to_confirm: dict[str, tuple[float, ...]] = {}
        """The vectors that a confirming run measures, by their ids in the search."""
        self.expected_digests: dict[str, str] = {}
        """Digests of the sources of the search that this run confirms or learns from."""
        self.learning = Learning()
        self.evaluations: dict[str, Evaluation] = {}
        """By id, in the order of the proposals."""
        self.leases: dict[str, str] = {}
        """The evaluation of each lease that was ever granted."""
        self.calls: list[Call] = []
        """The calls of the search method in their order."""
        self.asks: list[AskCall] = []
        """The asks among ``calls``."""
        self.completed: list[str] = []
        """Ids of the budget's completed evaluations in the order of their completion."""
        self.durations: list[float] = []
        """Seconds that each finished evaluation took, in increasing order."""
        self.sessions = WorkerSessions()
        self.spending = Spending()
        """What everything has cost that has ended."""
        self.duplicates: set[str] = set()
        """Leases whose results came after their evaluation was done or had failed."""
        self.finishing, self.finished, self.failed = "", "", False
        """Why only paused merges go on, and why the run ended, both empty before that; whether it
        ended for what failed in it."""
        self.by_patience = False
        """Whether the later of these two is because the hypervolume had stopped growing."""
        self.finishing_at = 0.0
        """Since when only paused merges go on; 0 before that."""
        self._tells_waiting: list[TellCall] = []
        """Tells that wait for the references to be measured."""
        self._counts: Counter[tuple[Purpose, EvaluationState]] = Counter()
        self._by_state = {state: list[tuple[int, str]]() for state in EvaluationState}
        self._with_failed_attempts: dict[str, None] = {}
        self._held, self._reported = dict[str, Work](), dict[str, Work]()
        """By worker: what its engine works on, and that of which it still makes the report."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunState) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    # ---- reading -------------------------------------------------------------------------

    @property
    def has_space(self) -> bool:
        """Whether it is known what a vector means: the layers, their parts and their blocks."""
        if self.spec is None or self.layers == 0:
            return False
        return self.spec.merge.grain != "adaptive" or self.borders is not None

    @property
    def space(self) -> Space:
        """The space that the run searches, once it is known."""
        assert self.has_space
        assert self.spec is not None
        return Space.of(
            self.spec,
            self.layers,
            self.outside,
            self.identical_layers,
            self.parts,
            self.borders or (),
        )

    @property
    def found_blocks(self) -> tuple[str, ...]:
        """The layers of each block that was found, as in ``4-7``; empty in a run that finds none.

        Those of ``grain = "adaptive"``.
        """
        if self.borders is None or not self.has_space:
            return ()
        space = self.space
        return space.unit_names[: len(space.unit_names) - len(space.outside)]

    @property
    def references_done(self) -> bool:
        """Whether all references are measured, so that Eq. 2 can be applied."""
        return self.spec is not None and all(
            name in self.evaluations and self.evaluations[name].state is EvaluationState.DONE
            for name in self.references
        )

    @property
    def references(self) -> tuple[str, ...]:
        """Ids of the references' evaluations: the names of the sources, the anchor last."""
        return () if self.spec is None else self.spec.sources.names

    def of_state(self, *states: EvaluationState) -> Iterator[Evaluation]:
        """Evaluations of each of ``states`` in turn, or of all, in the order of their proposals."""
        for state in states or EvaluationState:
            for _, name in self._by_state[state]:
                yield self.evaluations[name]

    def of_budget(self, *states: EvaluationState) -> list[Evaluation]:
        """Those of `of_state` that are part of the budget."""
        return [e for e in self.of_state(*states) if e.in_budget]

    def count(self, *states: EvaluationState, purposes: Iterable[Purpose] = BUDGET_PURPOSES) -> int:
        """How many evaluations of ``purposes`` are in any of ``states``, or in any at all."""
        return sum(self._counts[p, s] for p in purposes for s in states or EvaluationState)

    def active_attempts(self) -> Iterator[Work]:
        """Every evaluation in progress with its attempt, those first that are being reported."""
        yield from self._reported.values()
        yield from self._held.values()

    def held_by(self, worker: str) -> Work | None:
        """The evaluation that a worker's engine has in progress, with its attempt."""
        return self._held.get(worker)

    def reported_by(self, worker: str) -> Work | None:
        """The evaluation of which a worker makes the report while its engine is free for another.

        With its attempt.
        """
        return self._reported.get(worker)

    def work_of(self, worker: str) -> list[Work]:
        """What a worker has in progress, at most two evaluations: see `held_by`, `reported_by`."""
        found = (self._held.get(worker), self._reported.get(worker))
        return [each for each in found if each is not None]

    def with_failed_attempts(self) -> Iterator[Evaluation]:
        """Evaluations in the queue or in progress with an attempt whose worker may not be at fault.

        That is one that failed for the vector's reasons or those of the data or the run file,
        killed an engine or lost its worker.
        """
        return (self.evaluations[name] for name in self._with_failed_attempts)

    def data_faults(self) -> dict[str, tuple[Evaluation, Attempt]]:
        """By worker: its last attempt that found a fault of the data or the run file.

        Attempts that began under an earlier master are left out, for the fault may be mended since,
        and so are those at evaluations that have ended.
        """
        return {
            attempt.worker: (evaluation, attempt)
            for evaluation in self.with_failed_attempts()
            for attempt in evaluation.attempts
            if attempt.fault == "run_file" and attempt.epoch == self.epoch
        }

    @property
    def has_scores(self) -> bool:
        """Whether an evaluation is complete, so that the questions can be asked and scored."""
        return self.count(EvaluationState.DONE, purposes=("reference", *BUDGET_PURPOSES)) > 0

    @property
    def questions_may_change(self) -> bool:
        """Whether other questions may take the place of those that the run was begun with.

        That is so after a resume as long as none was scored and nothing is in progress.
        """
        attempts = [a for e in self.evaluations.values() for a in e.attempts]
        return not self.has_scores and not any(
            attempt.active or attempt.epoch == self.epoch for attempt in attempts
        )

    def find(self, lease: str) -> tuple[Evaluation, Attempt] | None:
        """The evaluation and the attempt of a lease; None for a lease that was never granted."""
        evaluation = self.evaluations.get(self.leases.get(lease, ""))
        if evaluation is None:
            return None
        return evaluation, next(a for a in evaluation.attempts if a.lease == lease)

    # ---- changing ------------------------------------------------------------------------

    def replay(self, records: Iterable[Record]) -> RunState:
        """Apply all records in order; returns itself."""
        for record in records:
            self.apply(record)
        return self

    def apply(self, record: Record) -> None:
        """Apply one event. Raises `InvariantError` when it cannot happen in this state."""
        event = record.event
        if record.seq <= self.seq:
            raise InvariantError(f"event {record.seq} after {self.seq}")
        if self.spec is None and not isinstance(event, RunStarted):
            raise InvariantError("the journal does not begin with run_started")
        if isinstance(event, RunEvent):
            self._change_course(event, record.time)
        elif isinstance(event, SpaceEvent):
            self._change_space(event)
        elif isinstance(event, EvaluationEvent):
            self._change_evaluations(event, record)
        elif isinstance(event, AttemptEvent):
            self._change_attempt(event, record)
        else:
            self.sessions.take(event, record.time)
        self.seq, self.time = record.seq, record.time

    def _change_course(self, event: RunEvent, time: float) -> None:
        match event:
            case RunStarted():
                self.run, self.spec = event.run, recorded_spec(event.spec)
                self.begun = time
            case SpecChanged():
                self.spec = recorded_spec(event.spec)
                self.finishing, self.finished, self.failed = "", "", False
                self.finishing_at, self.by_patience = 0.0, False
                self._pause(time)
            case EpochStarted():
                self.epoch = event.epoch
                self._pause(time)
                versions = dict(event.versions)
                self.masters.append(
                    MasterSession(event.epoch, event.host, time, event.security, versions)
                )
            case Finishing():
                self.finishing, self.finishing_at = event.reason, time
                self.by_patience = event.by_patience
            case Finished():
                self.finished, self.failed = event.reason, event.failed
                self.by_patience = event.by_patience

    def _change_space(self, event: SpaceEvent) -> None:
        match event:
            case SourcesVerified():
                self.layers, self.outside = event.layers, event.outside
                self.identical_layers, self.parts = event.identical_layers, dict(event.parts)
                self.digests = dict(event.digests)
                self.verified_epoch = self.epoch
            case BordersFound():
                if self.borders is not None:
                    raise InvariantError("borders found twice")
                self.borders = event.borders
            case FrontToConfirm():
                self.confirms = event.search
                self.expected_digests = dict(event.digests)
                self.to_confirm |= event.vectors
                self.borders = event.borders
            case RunLearnt():
                self.learning = Learning(event.run, event.identical_layers, dict(event.parts))
                self.borders = event.borders
                self.expected_digests = dict(event.digests)

    def _change_evaluations(self, event: EvaluationEvent, record: Record) -> None:
        match event:
            case ResultLearnt():
                self._learn(event, record)
            case Proposed():
                self._propose(event, record.seq)
            case Estimated():
                self._estimate(event)
            case Stopped():
                evaluation = self.evaluations[event.evaluation]
                self._set_state(evaluation, EvaluationState.STOPPED)
                evaluation.message = event.reason
            case EvaluationFailed():
                self._fail_evaluation(event)

    def _change_attempt(self, event: AttemptEvent, record: Record) -> None:
        match event:
            case Leased():
                self._lease(event, record.time)
            case Accepted():
                _, attempt = self._leased(event.lease)
                attempt.state = move_attempt(attempt.state, AttemptState.RUNNING)
            case AnswersComplete():
                self._free_engine(event, record.time)
            case Lost():
                self._lose(event, record.time)
            case AttemptFailed():
                self._fail_attempt(event, record.time)
            case ResultRecorded():
                self._complete(event, record)
            case Paused():
                self._pause_evaluation(event, record.time)
            case Beaten():
                _, attempt = self._leased(event.lease)
                attempt.beaten = event.reason
            case DuplicateResult():
                self.duplicates.add(event.lease)

    def _pause(self, until: float) -> None:
        """Note that no master ran from the last event on; no worker's session covers the pause."""
        self.sessions.close(self.time)
        if self.masters and until > self.time:
            self.pauses.append((self.time, until))

    def _set_state(self, evaluation: Evaluation, state: EvaluationState) -> None:
        """Change the state of an evaluation and update the indexes."""
        old, new = evaluation.state, move_evaluation(evaluation.state, state)
        entry = (evaluation.ordinal, evaluation.id)
        del self._by_state[old][bisect_left(self._by_state[old], entry)]
        insort(self._by_state[new], entry)
        self._counts[evaluation.purpose, old] -= 1
        self._counts[evaluation.purpose, new] += 1
        evaluation.state = new
        if new in SETTLED:
            self._with_failed_attempts.pop(evaluation.id, None)
        if old is EvaluationState.ACTIVE:
            attempt = evaluation.attempts[-1]
            is_reported = attempt.answered_at is not None
            del (self._reported if is_reported else self._held)[attempt.worker]

    def _learn(self, event: ResultLearnt, record: Record) -> None:
        """Add a result of an earlier run, which cost this one nothing."""
        ordinal = len(self.evaluations)
        evaluation = Evaluation(event.evaluation, event.purpose, event.vector, record.seq, ordinal)
        evaluation.state, evaluation.body = EvaluationState.DONE, event.body.without_outcomes()
        evaluation.seconds, evaluation.outcomes = event.seconds, event.outcomes
        evaluation.done_seq, evaluation.done_at = record.seq, record.time
        self.evaluations[evaluation.id] = evaluation
        self._by_state[EvaluationState.DONE].append((ordinal, evaluation.id))
        self._counts[evaluation.purpose, EvaluationState.DONE] += 1
        self.learning.sources[evaluation.id] = event.source
        self.spending.learnt.add(event.seconds, tokens_of(event.body))
        if evaluation.is_merge:
            self.learning.evaluations.append(evaluation.id)
        self._tell(evaluation)

    def _propose(self, event: Proposed, seq: int) -> None:
        for proposal in event.proposals:
            name, ordinal = proposal.evaluation, len(self.evaluations)
            if name in self.evaluations:
                raise InvariantError(f"{name} proposed twice")
            self.evaluations[name] = Evaluation(name, event.purpose, proposal.vector, seq, ordinal)
            self._by_state[EvaluationState.QUEUED].append((ordinal, name))
            self._counts[event.purpose, EvaluationState.QUEUED] += 1
        if event.purpose in BUDGET_PURPOSES:
            named = tuple(proposal.evaluation for proposal in event.proposals)
            self.asks.append(AskCall(named, event.pending, event.purpose, event.seconds))
            # The method had not seen the tells that came while the ask was computed.
            self.calls.insert(event.calls, self.asks[-1])

    def _lease(self, event: Leased, time: float) -> None:
        evaluation = self.evaluations[event.evaluation]
        if event.attempt != len(evaluation.attempts) + 1 or event.lease in self.leases:
            raise InvariantError(f"lease {event.lease} does not follow")
        if self.held_by(event.worker) is not None:
            raise InvariantError(f"{event.worker} holds a lease already")
        self._set_state(evaluation, EvaluationState.ACTIVE)
        attempt = Attempt(
            event.attempt,
            event.lease,
            event.worker,
            event.boot,
            self.epoch,
            time,
            event.kept,
            upto=event.upto,
            enough=event.enough,
            longest_first=event.longest_first,
        )
        evaluation.attempts.append(attempt)
        self._held[event.worker] = evaluation, attempt
        self.leases[event.lease] = evaluation.id

    def _free_engine(self, event: AnswersComplete, time: float) -> None:
        _, attempt = self._leased(event.lease)
        if self.reported_by(attempt.worker) is not None:
            raise InvariantError(f"{attempt.worker} makes a report already")
        attempt.state = move_attempt(attempt.state, AttemptState.REPORTING)
        cards = self.sessions.cards(attempt.worker, attempt.boot)
        answers_complete(attempt, time, cards, self.pauses, event.seconds)
        self._reported[attempt.worker] = self._held.pop(attempt.worker)

    def _leased(self, lease: str) -> tuple[Evaluation, Attempt]:
        """As `find`. Raises `InvariantError` for a lease that was never granted."""
        found = self.find(lease)
        if found is None:
            raise InvariantError(f"unknown lease {lease}")
        return found

    def _lose(self, event: Lost, time: float) -> None:
        evaluation, attempt = self._leased(event.lease)
        attempt.worker_lost = event.vanished and attempt.state in BEGUN
        attempt.kept_at_loss = event.kept
        attempt.state = move_attempt(attempt.state, AttemptState.LOST)
        attempt.message = event.reason
        self._end_attempt(attempt, time)
        if attempt.worker_lost:
            self._with_failed_attempts[evaluation.id] = None
        self._wait_again(evaluation)
        if attempt.lost_in_vain and evaluation.lost_workers == LOST_WORKERS_LIMIT:
            # The method is told here and not at the EvaluationFailed that follows. Earlier versions
            # wrote no such event, but told the method here, and `Proposed.calls` of later asks in
            # their journals counts that call.
            self._tell(evaluation, rejected=True)

    def _fail_attempt(self, event: AttemptFailed, time: float) -> None:
        evaluation, attempt = self._leased(event.lease)
        attempt.state = move_attempt(attempt.state, AttemptState.FAILED)
        self._end_attempt(attempt, time)
        attempt.fault, attempt.message, attempt.hint = event.fault, event.message, event.hint
        if event.fault == "engine":
            self.sessions.engine_died(attempt.boot, evaluation.id)
        if event.fault in {"vector", "engine", "run_file"}:
            self._with_failed_attempts[evaluation.id] = None
        self._wait_again(evaluation)

    def _wait_again(self, evaluation: Evaluation) -> None:
        """Note that an attempt ended without a result, so that another one may follow."""
        waits = EvaluationState.QUEUED if evaluation.step is None else EvaluationState.PAUSED
        self._set_state(evaluation, waits)

    def _complete(self, event: ResultRecorded, record: Record) -> None:
        evaluation = self.evaluations[event.evaluation]
        self._set_state(evaluation, EvaluationState.DONE)
        self._end_attempts(evaluation, event, record.time)
        body = event.body
        evaluation.body = body.without_outcomes() if isinstance(body, Evaluated) else body
        evaluation.outcomes = event.outcomes
        evaluation.seconds, evaluation.worker = event.seconds, event.worker
        evaluation.done_seq, evaluation.done_at = record.seq, record.time
        self.spending.delivered(evaluation)
        insort(self.durations, event.seconds)
        if evaluation.in_budget:
            self.completed.append(evaluation.id)
        self._tell(evaluation)

    def _end_attempts(
        self, evaluation: Evaluation, event: ResultRecorded | Paused, time: float
    ) -> None:
        """Note that the attempt of an event has delivered; another one in progress ends as well."""
        delivered = AttemptState.PAUSED if isinstance(event, Paused) else AttemptState.DONE
        for attempt in evaluation.attempts:
            if attempt.lease == event.lease:
                attempt.state = move_attempt(attempt.state, delivered)
                self._end_attempt(attempt, time, event.seconds)
                if isinstance(event.body, Evaluated | Stepped):
                    self.sessions.evaluated(attempt.boot)
            elif attempt.active:
                attempt.state = move_attempt(attempt.state, AttemptState.LOST)
                attempt.message = "an earlier attempt delivered"
                self._end_attempt(attempt, time)

    def _pause_evaluation(self, event: Paused, time: float) -> None:
        evaluation = self.evaluations[event.evaluation]
        before = evaluation.step
        _, attempt = self._leased(event.lease)
        if before is not None and not attempt.beaten:
            raise InvariantError(f"{evaluation.id} has paused before")
        self._set_state(evaluation, EvaluationState.PAUSED)
        self._end_attempts(evaluation, event, time)
        evaluation.step = FirstStep(
            event.body.without_rows(), dict(event.scores), event.worker, time
        )
        self.spending.paused(evaluation.step, before)
        insort(self.durations, event.seconds)

    def _estimate(self, event: Estimated) -> None:
        for name, estimate in event.estimates.items():
            evaluation = self.evaluations[name]
            if evaluation.step is None or evaluation.estimate is not None:
                raise InvariantError(f"an estimate of {name}, which has not paused newly")
            evaluation.estimate = estimate
            # One that has its result already, by a late attempt, was told with that.
            if evaluation.state not in {EvaluationState.DONE, EvaluationState.FAILED}:
                self._tell(evaluation, estimated=True)

    def _end_attempt(self, attempt: Attempt, time: float, worked: float = 0.0) -> None:
        """Note the end and the cost of an attempt; see `Spending.attempt_ended`."""
        cards = self.sessions.cards(attempt.worker, attempt.boot)
        self.spending.attempt_ended(attempt, time, cards, self.pauses, worked)

    def _fail_evaluation(self, event: EvaluationFailed) -> None:
        evaluation = self.evaluations[event.evaluation]
        self._set_state(evaluation, EvaluationState.FAILED)
        evaluation.message = event.message
        if not evaluation.failed_by_lost_workers:  # else `_lose` has told the method
            self._tell(evaluation, rejected=True)

    def _tell(
        self, evaluation: Evaluation, *, rejected: bool = False, estimated: bool = False
    ) -> None:
        """Tell the method of an evaluation, once all references are measured.

        Before that, Eq. 2 gives no objectives.
        """
        if evaluation.is_merge:
            self._tells_waiting.append(TellCall(evaluation.id, rejected, estimated))
        if self.references_done:
            self.calls.extend(self._tells_waiting)
            self._tells_waiting.clear()
