"""The whole wire format: every message that master and worker exchange.

    worker -> master                              master -> worker
    HELLO    name, GPU, and the leases I hold     WELCOME      the run, and which leases to keep
    READY    sources are read, their digests      REFUSE       why this worker may not join
    UNFIT    this host cannot take part           ASSIGN       one piece of work under a lease
    ACCEPT   I hold the lease                     CANCEL       drop the lease
    DECLINE  I do not take the lease              ENOUGH       end the lease with what it has
    BEAT     I live; stage and progress           BEAT_ACK     the master lives, in this epoch
    RESULT   measurements, a step, or a failure   RESULT_ACK   stored: forget the result
    ANSWERS  the next answers of a lease          HELLO_AGAIN  I do not know you: send HELLO
    ANSWERS_WANTED  give me those that you have   ANSWERS_ACK  stored: send the next
    DRAIN    give me no more work                 KEPT_ANSWERS  the next of the kept answers
    BYE      I leave                              BYE          the run is over

One evaluation, from joining to the stored result (worker -> and <- master):

    HELLO ->  <- WELCOME                            the worker learns the run
    READY ->                                        its sources are read and verified
              <- ASSIGN                             the lease is in the journal already
    ACCEPT ->
    BEAT ->   <- BEAT_ACK                           all the while, whatever else is sent
    ANSWERS_WANTED -> <- KEPT_ANSWERS               those of an earlier attempt, if there are any
    ANSWERS -> <- ANSWERS_ACK                       every answer is in the journal soon
    RESULT -> <- RESULT_ACK                         the result is in the journal

A connection may lose any message. A sender repeats ASSIGN until ACCEPT or DECLINE, RESULT until
RESULT_ACK, ENOUGH until that RESULT, ANSWERS until ANSWERS_ACK and ANSWERS_WANTED until
KEPT_ANSWERS; a repetition is the same message, and receivers ignore what they know already. A
worker that the master does not know (after a restart of the master, say) is asked to send HELLO
again.

A *lease* is one attempt at one evaluation, given to one worker. A *boot* is one life of a worker
process, an *epoch* one life of a master process. A message is two frames: `codec.HEADER` with the
protocol version, and a MessagePack map of the fields below.
"""

from __future__ import annotations

import base64
from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    model_validator,
)

from apbmm_common.errors import FailureKind
from apbmm_common.metrics import LONGEST_METRIC_NAME, metric
from apbmm_common.repetitions import Spread, question_of

# Ids become names of files and folders, so they cannot begin with a dot: ".." would lead out.
Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._:-]*$")]
Text = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Vector = Annotated[tuple[Share, ...], Field(max_length=4096)]
Layers = Annotated[tuple[Count, ...], Field(max_length=4096)]
Versions = Annotated[dict[Text, Text], Field(max_length=64)]
Stage = Literal["preparing", "unfit", "ready"]
WIRE = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
FinishReason = Annotated[str, Field(max_length=32)]
MOST_ENTRIES = 256
"""Most answers, and most outcomes, of one message."""
MOST_PACKED_BYTES = 600_000
"""Most bytes of a packed answer. In base64 it fits into a message with `FULL_BYTES` of others."""
FULL_BYTES = 300_000
"""A sender of answers and outcomes begins another message where this one would have more bytes.

Counted are packed answers and question ids. An answer that is longer goes alone.
"""


def _from_base64(value: Any) -> Any:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


Packed = Annotated[
    bytes,
    Field(min_length=1, max_length=MOST_PACKED_BYTES),
    BeforeValidator(_from_base64),
    PlainSerializer(
        lambda data: base64.b64encode(data).decode(), return_type=str, when_used="json"
    ),
]
"""Bytes, in base64 on the wire."""


class Message(BaseModel):
    """What all messages have: ``run``, the run's id ("" while the sender knows of none)."""

    model_config = WIRE
    run: Id | Literal[""] = ""


class Lease(BaseModel):
    """One attempt at one evaluation, given to one worker."""

    model_config = WIRE
    run: Id
    evaluation: Id
    attempt: Annotated[int, Field(ge=1, lt=10_000)]
    lease: Id


class Hello(Message):
    """The first message of a boot, and the answer to HELLO_AGAIN.

    ``held``: leases whose work the worker is doing. ``unacknowledged``: leases whose results it
    still has to deliver.
    """

    type: Literal["hello"] = "hello"
    worker: Id
    boot: Id
    number: Annotated[int, Field(ge=1, lt=2**53)] = 1
    """Counts the HELLOs of a boot, so that the master recognises a late or repeated one."""
    gpu: Text
    host: Text
    pid: Count
    versions: Versions
    held: Annotated[tuple[Lease, ...], Field(max_length=16)] = ()
    unacknowledged: Annotated[tuple[Lease, ...], Field(max_length=1024)] = ()


class Ready(Message):
    """The worker has read and verified the sources; ``digests`` identify their contents."""

    type: Literal["ready"] = "ready"
    layers: Annotated[int, Field(ge=1, le=4096)]
    outside: Annotated[tuple[Id, ...], Field(max_length=16)] = ()
    """Groups of tensors that belong to no layer (embeddings, final norm, head)."""
    identical_layers: Layers = ()
    """The layers whose tensors are the same in all sources; they are not searched."""
    parts: Annotated[dict[Id, Layers], Field(max_length=64)] = {}
    """Where parts of layers have weights of their own: the layers in which each is searched."""
    digests: Annotated[dict[Id, Id], Field(max_length=256)]
    versions: Versions


class Unfit(Message):
    """This host cannot take part in the run, and why. The worker waits and tries again.

    ``fault`` is what is at fault, as `EvaluationError` defines it.
    """

    type: Literal["unfit"] = "unfit"
    fault: FailureKind = "infrastructure"
    message: Text
    hint: Text = ""


class Accept(Message):
    """Answer to ASSIGN: the worker holds the lease. ``hello`` is as in `Beat`."""

    type: Literal["accept"] = "accept"
    lease: Id
    hello: Count = 0


class Decline(Message):
    """Answer to ASSIGN: the worker does not take the lease, for a reason."""

    type: Literal["decline"] = "decline"
    lease: Id
    reason: Text


class Beat(Message):
    """The worker's heartbeat.

    - ``hello``: number of the last HELLO sent before it.
    - ``lease``: the lease of this run whose merge the worker's engine has, or "".
    - ``reporting``: the lease of this run whose answers are all in, or "": only its report is still
      made, so that the engine is free for another. ``worked`` are the seconds from its beginning to
      its last answer.
    - ``stage``, ``done``, ``total``: what the evaluation, or the preparation of a worker that is
      not ready, does now, and its progress there.
    - ``generated``: tokens of the answers under ``lease``, by benchmark: finished ones, kept ones
      that the attempt began with, and what there is of those in flight. Its result will not have
      fewer. A benchmark of which that cannot be said is left out.
    - ``quiet``: seconds without progress.
    - ``trouble``: why the worker cannot store a result, or "".
    """

    type: Literal["beat"] = "beat"
    hello: Count = 0
    lease: Annotated[str, Field(max_length=128)] = ""
    reporting: Annotated[str, Field(max_length=128)] = ""
    worked: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    stage: Annotated[str, Field(max_length=64)] = ""
    done: Count = 0
    total: Count = 0
    generated: Annotated[dict[Id, Count], Field(max_length=64)] = {}
    quiet: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    trouble: Text = ""


class KeptAnswer(BaseModel):
    """One completion of the engine, as `answers.pack` packs it.

    ``key`` is that of its prompt (`answers.answer_key`), the same in every attempt of a run. An
    answer that the end of a step has cut off is there with its tokens so far; the next attempt goes
    on from them. Of two with one key `answers.replaces` says which one counts.
    """

    model_config = WIRE
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    packed: Packed


class ScoredOutcome(BaseModel):
    """One question of a benchmark that EvalScope has scored; ``seconds`` of its answers."""

    model_config = WIRE
    benchmark: Id
    question: Text
    score: Finite
    tokens: Count
    finish_reason: FinishReason
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Answers(Message):
    """The next answers and outcomes of a lease, with the beats; see `FULL_BYTES`.

    ``first`` is the number of entries (answers and outcomes) of this lease that were sent before.
    One message is on its way at a time: it is repeated until its ANSWERS_ACK arrives.
    """

    type: Literal["answers"] = "answers"
    lease: Id
    first: Count
    answers: Annotated[tuple[KeptAnswer, ...], Field(max_length=MOST_ENTRIES)] = ()
    outcomes: Annotated[tuple[ScoredOutcome, ...], Field(max_length=MOST_ENTRIES)] = ()

    @property
    def upto(self) -> int:
        """The number of entries that were sent with this message and before it."""
        return self.first + len(self.answers) + len(self.outcomes)


class AnswersWanted(Message):
    """Asks for the kept answers of a lease's evaluation, from number ``after`` on.

    The worker repeats it until the answer arrives. It need not have them: after a few repetitions
    it asks its engine instead.
    """

    type: Literal["answers_wanted"] = "answers_wanted"
    lease: Id
    after: Count = 0


OutcomeRow = tuple[Text, Finite, Count, FinishReason]
CutRow = tuple[Text, Annotated[Count, Field(ge=1)]]
MetricName = Annotated[str, Field(min_length=1, max_length=LONGEST_METRIC_NAME)]


class BenchmarkResult(BaseModel):
    """What one benchmark measured: its metrics (see `apbmm_common.metrics`), and counts.

    ``questions`` were answered ``repeats`` times each. ``truncated`` and ``malformed`` count
    answers: those cut off by the token limit, and those that gave no answer in the form asked for.
    """

    model_config = WIRE
    metrics: Annotated[dict[MetricName, Finite], Field(min_length=1, max_length=1024)]
    questions: Annotated[int, Field(ge=1)]
    repeats: Annotated[int, Field(ge=1)] = 1
    truncated: Count = 0
    malformed: Count = 0
    outcomes: Annotated[tuple[OutcomeRow, ...], Field(max_length=200_000)] = ()
    """Per answer: id (see `apbmm_common.repetitions`), score, generated tokens, finish reason."""
    spreads: Annotated[dict[MetricName, Spread], Field(max_length=1024)] = {}
    """Where ``repeats`` is over 1: of each metric that every answer has."""

    @model_validator(mode="after")
    def _metrics_are_within_their_limits(self) -> Self:
        for name, value in self.metrics.items():
            known = metric(name)
            if not known.least <= value <= known.most:
                raise ValueError(f"{name} cannot be {value:g}")
        return self

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if self.truncated > self.answers or self.malformed > self.answers:
            raise ValueError("more truncated or malformed answers than questions")
        if self.outcomes and len(self.outcomes) != self.answers:
            asked = f"{self.questions} questions" + (f" x {self.repeats}" * (self.repeats > 1))
            raise ValueError(f"{len(self.outcomes)} outcomes for {asked}")
        if len({question for question, *_ in self.outcomes}) != len(self.outcomes):
            raise ValueError("two outcomes for one question")
        return self

    @model_validator(mode="after")
    def _ids_name_repetitions(self) -> Self:
        if self.repeats > 1 and self.outcomes:
            asked = Counter(question_of(answer, self.repeats) for answer, *_ in self.outcomes)
            if set(asked.values()) != {self.repeats}:
                raise ValueError(f"a question has not {self.repeats} outcomes")
        return self

    @property
    def answers(self) -> int:
        """The number of answers."""
        return self.questions * self.repeats


def with_metrics(body: Any) -> Any:
    """The JSON of a result's body in today's form, in which each benchmark has ``metrics``.

    Journals and outboxes that protocol 2 wrote have accuracy and tokens in fields of their own.
    Everything else comes back as it is.
    """
    if not isinstance(body, dict) or not isinstance(body.get("benchmarks"), dict):
        return body
    return {**body, "benchmarks": {n: _with_metrics(b) for n, b in body["benchmarks"].items()}}


def _with_metrics(benchmark: Any) -> Any:
    try:
        rest = dict(benchmark)
        metrics = {"accuracy": rest.pop("accuracy"), "tokens": rest.pop("tokens")}
        metrics["truncated"] = rest.get("truncated", 0) / rest["questions"]
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return benchmark  # of today's form, or of none
    rest.pop("seconds", None)
    return {**rest, "metrics": metrics}


class Evaluated(BaseModel):
    """The measurements of one merge on every benchmark; ``stages`` in seconds."""

    model_config = WIRE
    kind: Literal["evaluated"] = "evaluated"
    benchmarks: Annotated[dict[Id, BenchmarkResult], Field(min_length=1, max_length=64)]
    stages: Annotated[dict[Text, Annotated[float, Field(ge=0)]], Field(max_length=64)] = {}
    engine: Annotated[dict[Text, Any], Field(max_length=64)] = {}

    def without_outcomes(self) -> Evaluated:
        """The same measurements without their per-question outcomes."""
        slim = {n: b.model_copy(update={"outcomes": ()}) for n, b in self.benchmarks.items()}
        return self.model_copy(update={"benchmarks": slim})


class BenchmarkPart(BaseModel):
    """What one benchmark has of a merge when a step has ended.

    ``questions`` x ``repeats`` are all answers of the benchmark, those of later steps included.
    ``answered`` of them are scored. ``tokens`` were generated for these and for the cut ones.
    """

    model_config = WIRE
    questions: Annotated[int, Field(ge=1)]
    repeats: Annotated[int, Field(ge=1)] = 1
    answered: Count
    tokens: Count
    outcomes: Annotated[tuple[OutcomeRow, ...], Field(max_length=200_000)] = ()
    """Of each answer that is scored, as in `BenchmarkResult`."""
    cut: Annotated[tuple[CutRow, ...], Field(max_length=200_000)] = ()
    """Of each answer that the end of the step has cut off: its id, and the tokens so far."""

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        if self.answered + len(self.cut) > self.answers:
            raise ValueError(f"more answers than {self.answers}")
        if not (self.outcomes or self.cut):
            return self
        if len(self.outcomes) != self.answered:
            raise ValueError(f"{len(self.outcomes)} outcomes for {self.answered} answers")
        ids = [row[0] for row in (*self.outcomes, *self.cut)]
        if len(set(ids)) != len(ids):
            raise ValueError("two rows for one answer")
        if sum(row[2] for row in self.outcomes) + sum(row[1] for row in self.cut) != self.tokens:
            raise ValueError(f"the rows have not {self.tokens} tokens")
        return self

    @property
    def answers(self) -> int:
        """The number of answers of the whole benchmark."""
        return self.questions * self.repeats


class Stepped(BaseModel):
    """What one merge has answered when a step has ended: see ``upto`` in `Assign`, and `Enough`.

    ``benchmarks`` has all benchmarks of the run, also those of which nothing is answered yet.
    Answers that the step did not ask, or that had no token yet when it ended, have no row.
    ``stages`` in seconds. The answers themselves, and the tokens of the cut ones, are in ANSWERS.
    """

    model_config = WIRE
    kind: Literal["stepped"] = "stepped"
    benchmarks: Annotated[dict[Id, BenchmarkPart], Field(min_length=1, max_length=64)]
    stages: Annotated[dict[Text, Annotated[float, Field(ge=0)]], Field(max_length=64)] = {}
    engine: Annotated[dict[Text, Any], Field(max_length=64)] = {}

    def without_rows(self) -> Stepped:
        """The same counts without the rows of single answers."""
        empty: dict[str, Any] = {"outcomes": (), "cut": ()}
        slim = {name: part.model_copy(update=empty) for name, part in self.benchmarks.items()}
        return self.model_copy(update={"benchmarks": slim})


PartNumbers = Annotated[tuple[Finite | None, ...], Field(max_length=4096)]


class Measured(BaseModel):
    """The discrepancy of every layer (Eq. 5 and 8), before any rescaling.

    ``prompts`` is the number of prompts that were run, ``seconds`` the time that it took.
    """

    model_config = WIRE
    kind: Literal["measured"] = "measured"
    parameter: Annotated[tuple[Finite, ...], Field(min_length=1, max_length=4096)]
    activation: Annotated[tuple[Finite, ...], Field(min_length=1, max_length=4096)]
    outside: Annotated[dict[Id, Finite], Field(max_length=16)] = {}
    """That of the parameters (Eq. 5), for each group of tensors that belong to no layer."""
    parts: Annotated[dict[Id, PartNumbers], Field(max_length=64)] = {}
    """The same for each part of layers that has weights of its own: a number for each layer, None
    for one without that part."""
    prompts: Count
    seconds: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _one_number_a_layer(self) -> Self:
        if len(self.parameter) != len(self.activation):
            raise ValueError("parameter and activation discrepancy differ in length")
        if any(len(numbers) != len(self.parameter) for numbers in self.parts.values()):
            raise ValueError("the discrepancies of parts and layers differ in length")
        return self


class Failed(BaseModel):
    """The attempt gave no measurement. ``fault`` is the cause, as `EvaluationError` defines it."""

    model_config = WIRE
    kind: Literal["failed"] = "failed"
    fault: FailureKind
    message: Text
    hint: Text = ""


Body = Annotated[Evaluated | Stepped | Measured | Failed, Field(discriminator="kind")]


class Result(Message):
    """The result of a lease, after ``seconds`` of work.

    ``digest`` is the SHA-256 of the body in canonical JSON; the master checks the body with it.
    """

    type: Literal["result"] = "result"
    evaluation: Id
    attempt: Annotated[int, Field(ge=1, lt=10_000)]
    lease: Id
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    digest: Id
    body: Body


class Drain(Message):
    """The worker finishes the work it holds and takes no more."""

    type: Literal["drain"] = "drain"


class Bye(Message):
    """The sender leaves: a worker because it stops, a master because its run is over.

    ``kept``: leases of the run whose results the worker keeps on disk for its next boot.
    """

    type: Literal["bye"] = "bye"
    reason: Text = ""
    kept: Annotated[tuple[Id, ...], Field(max_length=1024)] = ()


class Welcome(Message):
    """Answer to HELLO: the run, and which of the leases that HELLO names to keep or abandon.

    ``spec`` is the run file as JSON.
    """

    type: Literal["welcome"] = "welcome"
    epoch: Annotated[int, Field(ge=1)]
    spec: dict[str, Any]
    keep: Annotated[tuple[Id, ...], Field(max_length=16)] = ()
    abandon: Annotated[tuple[Id, ...], Field(max_length=16)] = ()


class Refuse(Message):
    """This worker may not join, for a reason. After a ``final`` refusal it does not try again."""

    type: Literal["refuse"] = "refuse"
    reason: Text
    hint: Text = ""
    final: bool = False


class Assign(Message):
    """One piece of work under a lease; ``fresh`` asks for a new engine first.

    ``vector`` lies in the space that the run searches (`apbmm_common.run_file.space`). That of a
    reference, which is one of the sources, has one weight for each layer in every space.
    ``borders`` are the first layers of all blocks but the first, where the run has found them.
    ``config`` identifies the settings that the result is measured under. ``kept`` is how many
    answers of earlier attempts the master holds, for ANSWERS_WANTED.

    ``upto`` over 0 asks for a step: only the first so many answers in the run's asking order are
    asked. With ``enough`` of them answered (0: all) the step ends, and the others are cut off. The
    result is then `Stepped`; where both are all answers of the run, it is `Evaluated`.

    ``longest_first`` allows another order, as ``upto`` asks for no part of the answers.
    """

    type: Literal["assign"] = "assign"
    evaluation: Id
    attempt: Annotated[int, Field(ge=1, lt=10_000)]
    lease: Id
    work: Literal["evaluate", "reference", "measure"]
    vector: Vector = ()
    borders: Layers = ()
    config: Id
    fresh: bool = False
    kept: Count = 0
    upto: Count = 0
    enough: Count = 0
    longest_first: bool = False

    @model_validator(mode="after")
    def _step_has_enough(self) -> Self:
        if self.enough > self.upto:
            raise ValueError(f"a step of {self.upto} answers cannot have {self.enough}")
        return self


class AnswersAck(Message):
    """The first ``upto`` answers and outcomes of a lease are in the journal, or are not needed."""

    type: Literal["answers_ack"] = "answers_ack"
    lease: Id
    upto: Count


class KeptAnswers(Message):
    """Answer to ANSWERS_WANTED: kept answers from number ``after`` on, in a fixed order.

    ``total`` is how many there are. A message without answers is the last.
    """

    type: Literal["kept_answers"] = "kept_answers"
    lease: Id
    after: Count
    answers: Annotated[tuple[KeptAnswer, ...], Field(max_length=MOST_ENTRIES)] = ()
    total: Count


class Cancel(Message):
    """Drop the lease: its result is not wanted. Sent again for every BEAT that still names it."""

    type: Literal["cancel"] = "cancel"
    lease: Id
    unknown: bool = False
    """The journal has no such lease, so a result that the worker keeps for it is of no use."""


class Enough(Message):
    """What is answered under the lease is enough: end it, as a step ends that has `enough`.

    Answers in flight are cut off, and the engine stays. The result is `Stepped`, unless everything
    was answered already. It is sent again until the result arrives.
    """

    type: Literal["enough"] = "enough"
    lease: Id


class BeatAck(Message):
    """The master lives, in this epoch. ``stage`` is the worker's as the master knows it.

    A worker that is ready but hears ``preparing`` sends READY again.
    """

    type: Literal["beat_ack"] = "beat_ack"
    epoch: Annotated[int, Field(ge=1)]
    stage: Stage


class ResultAck(Message):
    """The result is in the journal, or is not needed: the worker may delete it."""

    type: Literal["result_ack"] = "result_ack"
    lease: Id


class HelloAgain(Message):
    """The master does not know this connection, or doubts what it has read, and asks for HELLO."""

    type: Literal["hello_again"] = "hello_again"


FromWorker = (
    Hello | Ready | Unfit | Accept | Decline | Beat | Answers | AnswersWanted | Result | Drain | Bye
)
FromMaster = (
    Welcome
    | Refuse
    | Assign
    | Cancel
    | Enough
    | BeatAck
    | AnswersAck
    | KeptAnswers
    | ResultAck
    | HelloAgain
    | Bye
)

_BY_TYPE = Field(discriminator="type")
FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(Annotated[FromWorker, _BY_TYPE])
FROM_MASTER: TypeAdapter[FromMaster] = TypeAdapter(Annotated[FromMaster, _BY_TYPE])
