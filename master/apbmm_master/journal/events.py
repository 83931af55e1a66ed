"""The events of a journal. Run state, front, status and report are derived from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from apbmm_common.errors import FailureKind
from apbmm_common.protocol.messages import Evaluated, Measured, Stepped, with_metrics

Purpose = Literal["measure", "reference", "initial", "search", "learnt"]


def work_of(purpose: Purpose) -> Literal["measure", "reference", "evaluate"]:
    """What a worker has to do for an evaluation of a purpose."""
    match purpose:
        case "measure" | "reference":
            return purpose
    return "evaluate"


Measurements = Annotated[Evaluated | Measured, Field(discriminator="kind")]


def outcome_count(body: Evaluated | Measured) -> int:
    """How many outcomes of single answers a result comes with."""
    if isinstance(body, Measured):
        return 0
    return sum(len(result.outcomes) for result in body.benchmarks.values())


QUESTIONS = "benchmark."
"""What the names of the questions' digests begin with; see `apbmm_worker.child.pipeline`."""


class Event(BaseModel):
    """Base of all events. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunStarted(Event):
    """First event of a journal."""

    event: Literal["run_started"] = "run_started"
    run: str
    spec: dict[str, Any]


class SpecChanged(Event):
    """The run was resumed with an edited run file; see `run_start.resume.may_change`."""

    event: Literal["spec_changed"] = "spec_changed"
    spec: dict[str, Any]
    keys: tuple[str, ...]


class EpochStarted(Event):
    """A master took over the run.

    ``security`` is what protects it (`wire.Authenticator.security`), ``versions`` those of the
    packages that it computes with; both are empty in journals of earlier versions.
    """

    event: Literal["epoch_started"] = "epoch_started"
    epoch: int
    host: str
    pid: int
    security: str = ""
    versions: dict[str, str] = Field(default_factory=dict)


class SourcesVerified(Event):
    """What the first worker read from the sources. Every worker must read the same digests.

    Recorded again when other questions take the place of some that were never scored; see
    `RunState.questions_may_change`.
    """

    event: Literal["sources_verified"] = "sources_verified"
    worker: str
    layers: int
    outside: tuple[str, ...] = ()
    identical_layers: tuple[int, ...] = ()
    """Not searched; none in runs that began before such layers left the search space."""
    parts: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Where parts of layers have weights of their own: the layers in which each is searched."""
    digests: dict[str, str]


class BordersFound(Event):
    """Where the blocks of a run with ``grain = "adaptive"`` begin, all but the first.

    They follow from the measured discrepancies, and decide what the vectors of the run mean: all
    that is proposed comes after this event.
    """

    event: Literal["borders_found"] = "borders_found"
    borders: tuple[int, ...]


class FrontToConfirm(Event):
    """Merges of a search to be measured once more, in a run that confirms that search.

    ``search`` is the run id of the search, ``digests`` its digests of the sources, which every
    worker must read, ``vectors`` the merges by their ids in the search, ``borders`` those of its
    blocks, where it has found them. A later event adds merges.
    """

    event: Literal["front_to_confirm"] = "front_to_confirm"
    search: str
    digests: dict[str, str]
    vectors: dict[str, tuple[float, ...]]
    borders: tuple[int, ...] | None = None


class RunLearnt(Event):
    """The search begins with the results of an earlier run, which `ResultLearnt` events follow.

    ``run`` is that run's id, ``digests`` what it has read, which every worker must read,
    ``identical_layers`` the layers that it does not search, ``parts`` those in which it searches
    each part, ``borders`` those of its blocks, where it has found them.
    """

    event: Literal["run_learnt"] = "run_learnt"
    run: str
    digests: dict[str, str]
    identical_layers: tuple[int, ...]
    parts: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    borders: tuple[int, ...] | None = None


class ResultLearnt(Event):
    """A reference or merge of the earlier run; per-question outcomes are kept beside it.

    ``source`` is its id there, ``outcomes`` as in `ResultRecorded`.
    """

    event: Literal["result_learnt"] = "result_learnt"
    evaluation: str
    source: str
    purpose: Literal["reference", "learnt"]
    vector: tuple[float, ...]
    seconds: float
    body: Evaluated
    outcomes: int = 0


class Proposal(Event):
    """One vector to evaluate; ``key`` is the content key of the evaluation."""

    evaluation: str
    vector: tuple[float, ...]
    key: str


class Proposed(Event):
    """The vectors that one ask proposed, and what the ask was computed from.

    ``calls`` is the number of algorithm calls that came before the ask, ``pending`` the
    evaluations that were in flight, ``basis`` the journal sequence number it saw, ``seed`` and
    ``index`` the random key (index of the first vector).
    """

    event: Literal["proposed"] = "proposed"
    purpose: Purpose
    proposals: tuple[Proposal, ...]
    calls: int = 0
    pending: tuple[str, ...] = ()
    basis: int = 0
    seed: int = 0
    index: int = 0
    seconds: float = 0.0
    diagnostics: dict[str, Any] = Field(default_factory=dict)


class Leased(Event):
    """Committed before ASSIGN is sent.

    ``kept`` is how many answers of earlier attempts the worker need not ask for. ``upto`` and
    ``enough`` are those of `Assign`: 0 where the merge is to answer everything. So is
    ``longest_first``.
    """

    event: Literal["leased"] = "leased"
    evaluation: str
    attempt: int
    lease: str
    worker: str
    boot: str
    kept: int = 0
    upto: int = 0
    enough: int = 0
    longest_first: bool = False


class Accepted(Event):
    """The worker holds the lease."""

    event: Literal["accepted"] = "accepted"
    evaluation: str
    lease: str


class Lost(Event):
    """A lease ended without a result; the evaluation is queued again.

    ``vanished``: its worker was lost, that is, it ended or fell silent without a word. Otherwise
    the worker gave the lease back. ``kept``: how many answers of the evaluation were kept then.
    """

    event: Literal["lost"] = "lost"
    evaluation: str
    lease: str
    reason: str
    vanished: bool = False
    kept: int = 0


class AnswersComplete(Event):
    """All answers of an attempt are in: its report is still made, but its worker's engine is free.

    ``seconds``: from its beginning to its last answer, by the worker's clock.
    """

    event: Literal["answers_complete"] = "answers_complete"
    evaluation: str
    lease: str
    seconds: float


class ResultRecorded(Event):
    """The one result of an evaluation; per-question outcomes are kept beside it.

    ``outcomes`` is how many; 0 as well in journals of versions that did not count them. The body of
    an event that an earlier version wrote is read in today's form.
    """

    event: Literal["result"] = "result"
    evaluation: str
    attempt: int
    lease: str
    worker: str
    seconds: float
    digest: str
    body: Annotated[Measurements, BeforeValidator(with_metrics)]
    outcomes: int = 0


class Paused(Event):
    """A merge has answered its first step, or all that it will because it is `Beaten`.

    The rows of its answers are kept beside the event, in place of those of an earlier step.

    ``scores``: the sum of the scores of its answers, by benchmark.
    """

    event: Literal["paused"] = "paused"
    evaluation: str
    attempt: int
    lease: str
    worker: str
    seconds: float
    digest: str
    body: Stepped
    scores: dict[str, float]


MeanAndVariance = tuple[float, float]
BenchmarkEstimates = dict[str, dict[str, MeanAndVariance]]
"""Of one merge, by benchmark and metric: the estimated mean over all answers, and its variance."""


class Estimated(Event):
    """The estimates that the search is told of merges that have paused."""

    event: Literal["estimated"] = "estimated"
    estimates: dict[str, BenchmarkEstimates]


class Beaten(Event):
    """A merge in progress is no member of the front, whatever it still answers.

    A measured merge beats it, or it breaks a constraint. Its worker is told to end.

    It is stopped with what it has answered then. ``reason`` is that of its `Stopped`.
    """

    event: Literal["beaten"] = "beaten"
    evaluation: str
    lease: str
    reason: str


class Stopped(Event):
    """A paused merge never goes on: it is no member of the front, whatever it still answered."""

    event: Literal["stopped"] = "stopped"
    evaluation: str
    reason: str


REASON_BEFORE_BY_PATIENCE = "the hypervolume grew by "
"""Earlier versions recorded no ``by_patience``: it was so where a reason began with this."""


def _by_patience_in_words(event: dict[str, Any]) -> bool:
    return str(event.get("reason", "")).startswith(REASON_BEFORE_BY_PATIENCE)


class Finishing(Event):
    """From here on merges that have paused are completed, and no other is begun.

    ``by_patience``: because the hypervolume has stopped growing; see `costs.patience`.
    """

    event: Literal["finishing"] = "finishing"
    reason: str
    by_patience: bool = Field(default_factory=_by_patience_in_words)


class DuplicateResult(Event):
    """A valid result that came too late and does not count.

    Its evaluation was done, stopped or had failed; or it is of a step that is recorded already.
    """

    event: Literal["duplicate"] = "duplicate"
    evaluation: str
    attempt: int
    lease: str
    worker: str
    digest: str
    metrics: dict[str, Any] = Field(default_factory=dict)


class AttemptFailed(Event):
    """An attempt ended without a measurement.

    ``fault`` is ``engine`` when an engine died and the death is held against the vector; see
    `worker_sessions.WorkerSessions.blames_vector`. It is ``run_file`` while nothing speaks against
    a fault of the data or the run file; see `scheduling.message_handlers`.
    """

    event: Literal["attempt_failed"] = "attempt_failed"
    evaluation: str
    attempt: int
    lease: str
    worker: str
    fault: FailureKind
    message: str
    hint: str = ""


class EvaluationFailed(Event):
    """The evaluation gets no further attempt; see `Evaluation.reason_to_give_up`.

    It is no observation. The search method is told to avoid the vector.
    """

    event: Literal["evaluation_failed"] = "evaluation_failed"
    evaluation: str
    message: str


class WorkerJoined(Event):
    """A worker process joined; ``boot`` is its random id."""

    event: Literal["worker_joined"] = "worker_joined"
    worker: str
    boot: str
    gpu: str
    host: str
    versions: dict[str, str]


class WorkerLeft(Event):
    """A worker said BYE, was superseded by another process of its name, or was unreachable.

    ``final``: this boot never comes back. It may after it was unreachable.
    """

    event: Literal["worker_left"] = "worker_left"
    worker: str
    boot: str
    reason: str
    final: bool = True


class WorkerQuarantined(Event):
    """A worker failed or declined too often and gets no more work in this boot."""

    event: Literal["worker_quarantined"] = "worker_quarantined"
    worker: str
    boot: str
    reason: str


class Finished(Event):
    """The run is over: its budget is spent, or, with ``failed``, too much of it failed.

    ``by_patience`` as in `Finishing`; also where that had begun by patience, and nothing is left
    to complete.
    """

    event: Literal["finished"] = "finished"
    reason: str
    failed: bool = False
    by_patience: bool = Field(default_factory=_by_patience_in_words)


RunEvent = RunStarted | SpecChanged | EpochStarted | Finishing | Finished
"""How a run goes: its beginning, its masters, its end."""
SpaceEvent = SourcesVerified | BordersFound | FrontToConfirm | RunLearnt
"""What a run searches, and what it is to find again."""
EvaluationEvent = ResultLearnt | Proposed | Estimated | Stopped | EvaluationFailed
"""What befalls evaluations, whatever their workers do."""
AttemptEvent = (
    Leased
    | Accepted
    | AnswersComplete
    | Lost
    | ResultRecorded
    | Paused
    | Beaten
    | DuplicateResult
    | AttemptFailed
)
"""What befalls the attempt of a worker at an evaluation."""
WorkerEvent = WorkerJoined | WorkerLeft | WorkerQuarantined
"""How workers come and go."""
AnyEvent = RunEvent | SpaceEvent | EvaluationEvent | AttemptEvent | WorkerEvent


def without_answers(event: AnyEvent) -> AnyEvent:
    """The event as the journal keeps it: single answers have tables of their own."""
    match event:
        case Paused():
            return event.model_copy(update={"body": event.body.without_rows()})
        case ResultRecorded(body=Evaluated() as body) | ResultLearnt(body=body):
            return event.model_copy(update={"body": body.without_outcomes()})
    return event


EVENT: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event")])


@dataclass(frozen=True)
class Record:
    """An event with its sequence number and its time (Unix seconds of the `RunClock`)."""

    seq: int
    time: float
    event: AnyEvent
