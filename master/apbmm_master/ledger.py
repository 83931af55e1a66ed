"""The run as its journal tells it: a fold over events, with one mutator.

The ledger knows nothing of sockets, clocks or workers' liveness. `Ledger.apply` is the only way
to change it, and it refuses what the state machines of `lifecycle` do not allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from apbmm_common.messages import Evaluated, Measured
from apbmm_common.runfile import RunSpec

from apbmm_master.events import (
    Accepted,
    AttemptFailed,
    DuplicateResult,
    EpochStarted,
    EvaluationFailed,
    Finished,
    Leased,
    Lost,
    Proposed,
    Purpose,
    Record,
    ResultRecorded,
    RunStarted,
    SourcesVerified,
    SpecChanged,
    WorkerJoined,
    WorkerLeft,
    WorkerQuarantined,
)
from apbmm_master.lifecycle import (
    ACTIVE_ATTEMPT,
    AttemptState,
    EvaluationState,
    InvariantError,
    move_attempt,
    move_evaluation,
)

REFERENCES = ("thinking", "instruct")
MEASURE = "measure"


@dataclass
class Attempt:
    """One lease of an evaluation. Times are wall-clock seconds, for reports only."""

    number: int
    lease: str
    worker: str
    boot: str
    epoch: int
    leased_at: float
    state: AttemptState = AttemptState.LEASED
    ended_at: float | None = None
    fault: str = ""
    message: str = ""

    @property
    def active(self) -> bool:
        """Whether the worker is still expected to deliver."""
        return self.state in ACTIVE_ATTEMPT


@dataclass
class Evaluation:
    """One vector (or the discrepancy measurement) and what became of it."""

    id: str
    purpose: Purpose
    vector: tuple[float, ...]
    key: str
    proposed_seq: int
    state: EvaluationState = EvaluationState.QUEUED
    attempts: list[Attempt] = field(default_factory=list)
    body: Evaluated | Measured | None = None
    seconds: float = 0.0
    worker: str = ""
    done_seq: int = 0
    done_at: float = 0.0
    message: str = ""

    @property
    def active_attempt(self) -> Attempt | None:
        """The attempt in progress, if there is one."""
        return next((attempt for attempt in reversed(self.attempts) if attempt.active), None)

    @property
    def vector_faults(self) -> int:
        """Attempts that failed for the vector's own reasons."""
        return sum(attempt.fault == "vector" for attempt in self.attempts)

    @property
    def counts(self) -> bool:
        """Whether it is part of the budget (references and the measurement are not)."""
        return self.purpose in ("initial", "search")


@dataclass(frozen=True)
class Asked:
    """An ask of the algorithm and what it answered (evaluation ids)."""

    evaluations: tuple[str, ...]
    pending: tuple[str, ...]


@dataclass(frozen=True)
class Told:
    """An observation told to the algorithm, or with ``rejected`` a vector given up."""

    evaluation: str
    rejected: bool = False


Call = Asked | Told


@dataclass(frozen=True)
class Presence:
    """A worker's boot and how long it was there (wall clock; ``left`` None while it stays)."""

    worker: str
    boot: str
    gpu: str
    host: str
    joined: float
    left: float | None = None


class Ledger:
    """All that the events so far imply."""

    def __init__(self) -> None:
        self.seq = 0
        self.run = ""
        self.spec: RunSpec | None = None
        self.epoch = 0
        self.layers = 0
        self.digests: dict[str, str] = {}
        self.evaluations: dict[str, Evaluation] = {}
        self.leases: dict[str, str] = {}
        self.calls: list[Call] = []
        self.asks: list[Proposed] = []
        self.presences: dict[tuple[str, str], Presence] = {}
        self.quarantined: dict[tuple[str, str], str] = {}
        self.duplicates: set[str] = set()
        """Leases whose results came when their evaluation was settled."""
        self.finished = ""
        self._untold: list[Told] = []

    # ---- reading -------------------------------------------------------------------------

    @property
    def references_done(self) -> bool:
        """Whether both references are measured, so that Eq. 2 can be applied."""
        return all(
            name in self.evaluations and self.evaluations[name].state is EvaluationState.DONE
            for name in REFERENCES
        )

    def of_state(self, *states: EvaluationState) -> list[Evaluation]:
        """Evaluations in any of ``states``, in the order of their proposals."""
        return [e for e in self.evaluations.values() if e.state in states]

    def counted(self, *states: EvaluationState) -> list[Evaluation]:
        """Those of `of_state` that are part of the budget."""
        return [e for e in self.of_state(*states) if e.counts]

    def active_attempts(self) -> Iterator[tuple[Evaluation, Attempt]]:
        """Every evaluation in progress with its attempt."""
        for evaluation in self.of_state(EvaluationState.ACTIVE):
            attempt = evaluation.active_attempt
            if attempt is not None:
                yield evaluation, attempt

    def find(self, lease: str) -> tuple[Evaluation, Attempt] | None:
        """The attempt that a lease names."""
        evaluation = self.evaluations.get(self.leases.get(lease, ""))
        if evaluation is None:
            return None
        return evaluation, next(a for a in evaluation.attempts if a.lease == lease)

    # ---- the one mutator -----------------------------------------------------------------

    def replay(self, records: Iterable[Record]) -> Ledger:
        """Apply all records in order; returns itself."""
        for record in records:
            self.apply(record)
        return self

    def apply(self, record: Record) -> None:
        """Take one event in. Raises `InvariantError` when it cannot follow from the state."""
        if record.seq <= self.seq:
            raise InvariantError(f"event {record.seq} after {self.seq}")
        if isinstance(record.event, Proposed | Leased | ResultRecorded) and self.spec is None:
            raise InvariantError("the journal does not begin with run_started")
        match record.event:
            case RunStarted() as event:
                self.run, self.spec = event.run, RunSpec.model_validate(event.spec)
            case SpecChanged() as event:
                self.spec, self.finished = RunSpec.model_validate(event.spec), ""
            case EpochStarted() as event:
                self.epoch = event.epoch
                self._close_presences(record.time)
            case SourcesVerified() as event:
                self.layers, self.digests = event.layers, dict(event.digests)
            case Proposed() as event:
                self._propose(event, record.seq)
            case Leased() as event:
                self._lease(event, record.time)
            case Accepted() | Lost() | AttemptFailed() as event:
                self._move(event, record.time)
            case ResultRecorded() as event:
                self._finish(event, record)
            case DuplicateResult() as event:
                self.duplicates.add(event.lease)
            case EvaluationFailed() as event:
                self._give_up(event)
            case WorkerJoined() | WorkerLeft() | WorkerQuarantined() as event:
                self._presence(event, record.time)
            case Finished() as event:
                self.finished = event.reason
        self.seq = record.seq

    def _propose(self, event: Proposed, seq: int) -> None:
        for proposal in event.proposals:
            if proposal.evaluation in self.evaluations:
                raise InvariantError(f"{proposal.evaluation} proposed twice")
            self.evaluations[proposal.evaluation] = Evaluation(
                proposal.evaluation, event.purpose, proposal.vector, proposal.key, seq
            )
        if event.purpose in ("initial", "search"):
            self.asks.append(event)
            asked = Asked(tuple(p.evaluation for p in event.proposals), event.pending)
            # Tells that arrived while the ask was being computed come after it.
            self.calls.insert(event.calls, asked)

    def _lease(self, event: Leased, time: float) -> None:
        evaluation = self.evaluations[event.evaluation]
        if event.attempt != len(evaluation.attempts) + 1 or event.lease in self.leases:
            raise InvariantError(f"lease {event.lease} does not follow")
        evaluation.state = move_evaluation(evaluation.state, EvaluationState.ACTIVE)
        evaluation.attempts.append(
            Attempt(event.attempt, event.lease, event.worker, event.boot, self.epoch, time)
        )
        self.leases[event.lease] = event.evaluation

    def _move(self, event: Accepted | Lost | AttemptFailed, time: float) -> None:
        found = self.find(event.lease)
        if found is None:
            raise InvariantError(f"unknown lease {event.lease}")
        evaluation, attempt = found
        if isinstance(event, Accepted):
            attempt.state = move_attempt(attempt.state, AttemptState.RUNNING)
            return
        evaluation.state = move_evaluation(evaluation.state, EvaluationState.QUEUED)
        attempt.ended_at = time
        if isinstance(event, Lost):
            attempt.state = move_attempt(attempt.state, AttemptState.LOST)
            attempt.message = event.reason
        else:
            attempt.state = move_attempt(attempt.state, AttemptState.FAILED)
            attempt.fault, attempt.message = event.fault, event.message

    def _finish(self, event: ResultRecorded, record: Record) -> None:
        evaluation = self.evaluations[event.evaluation]
        evaluation.state = move_evaluation(evaluation.state, EvaluationState.DONE)
        for attempt in evaluation.attempts:
            if attempt.lease == event.lease:
                attempt.state = move_attempt(attempt.state, AttemptState.DONE)
                attempt.ended_at = record.time
            elif attempt.active:
                attempt.state = move_attempt(attempt.state, AttemptState.LOST)
                attempt.ended_at, attempt.message = record.time, "an earlier attempt delivered"
        evaluation.body, evaluation.seconds = event.body, event.seconds
        evaluation.worker = event.worker
        evaluation.done_seq, evaluation.done_at = record.seq, record.time
        if evaluation.counts:
            self._tell(Told(event.evaluation))
        elif self.references_done:
            self._tell(None)

    def _give_up(self, event: EvaluationFailed) -> None:
        evaluation = self.evaluations[event.evaluation]
        evaluation.state = move_evaluation(evaluation.state, EvaluationState.FAILED)
        evaluation.message = event.message
        if evaluation.counts:
            self._tell(Told(event.evaluation, rejected=True))

    def _tell(self, told: Told | None) -> None:
        """Queue a tell; without references there are no objectives yet, so it waits for them."""
        if told is not None:
            self._untold.append(told)
        if self.references_done:
            self.calls.extend(self._untold)
            self._untold.clear()

    def _presence(self, event: WorkerJoined | WorkerLeft | WorkerQuarantined, time: float) -> None:
        key = (event.worker, event.boot)
        if isinstance(event, WorkerJoined):
            self.presences[key] = Presence(event.worker, event.boot, event.gpu, event.host, time)
        elif isinstance(event, WorkerQuarantined):
            self.quarantined[key] = event.reason
        elif key in self.presences:
            self._leave(key, time)

    def _close_presences(self, time: float) -> None:
        for key, presence in list(self.presences.items()):
            if presence.left is None:
                self._leave(key, time)

    def _leave(self, key: tuple[str, str], time: float) -> None:
        there = self.presences[key]
        self.presences[key] = Presence(
            there.worker, there.boot, there.gpu, there.host, there.joined, time
        )
