"""What a worker's daemon and its evaluation child say to each other, over an inherited socket.

    prepare   -> progress*, prepared
    measure   -> progress*, measured
    use_answers*, evaluate -> (progress, new_answers)*, evaluated or stepped
        or, where the report takes long -> (progress, new_answers)*, engine_free, and beside the
        events of the next command: of_report(new_answers)*, of_report(evaluated or stepped)
    evaluate_folder -> progress*, evaluated
        end_answers may come meanwhile: the answer is stepped, unless everything was answered
    stop, or the end of the socket -> the child ends with exit status 0
    any failure -> command_failed

The daemon sends one command at a time; use_answers, which precede evaluate, and end_answers have no
answer. One that has said ``engine_free`` does not count, of which there is one at a time too.
`message_socket` says how messages are encoded.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from apbmm_common.errors import FailureKind
from apbmm_common.protocol.messages import (
    WIRE,
    Count,
    Evaluated,
    Finite,
    KeptAnswer,
    Measured,
    ScoredOutcome,
    Stepped,
)


class Prepare(BaseModel):
    """Verify the sources of a run and read its benchmarks.

    ``spec`` is the run file. All paths are those of this host: ``sources`` by role, ``benchmarks``
    by name, ``adapters`` is the file of the run's own. ``engine`` has the engine arguments that
    this host sets, as text. ``lora_adapters`` are those of sources that are an adapter on the model
    in ``sources``, by role.
    """

    model_config = WIRE
    kind: Literal["prepare"] = "prepare"
    spec: dict[str, Any]
    sources: dict[str, str]
    benchmarks: dict[str, tuple[str, ...]]
    prompts: str | None = None
    adapters: str | None = None
    scratch: str
    device: str
    engine: dict[str, str] = {}
    lora_adapters: dict[str, str] = {}


class Measure(BaseModel):
    """Measure how much the sources differ."""

    model_config = WIRE
    kind: Literal["measure"] = "measure"


class UseAnswers(BaseModel):
    """Answers of an earlier attempt at the evaluation that comes next."""

    model_config = WIRE
    kind: Literal["use_answers"] = "use_answers"
    answers: tuple[KeptAnswer, ...]


class Evaluate(BaseModel):
    """Evaluate the merge of one vector; EvalScope's records go to ``outputs``.

    The vector is of the run's space. That of a ``reference`` has one weight for each layer.
    ``borders``, ``upto``, ``enough`` and ``longest_first`` are those of the `Assign`. ``lease``
    names it for `EndAnswers`. ``may_free``: the engine may be free for the next command before the
    report is made.
    """

    model_config = WIRE
    kind: Literal["evaluate"] = "evaluate"
    evaluation: str
    lease: str = ""
    vector: tuple[Finite, ...]
    reference: bool = False
    borders: tuple[Count, ...] = ()
    outputs: str
    upto: Count = 0
    enough: Count = 0
    longest_first: bool = False
    may_free: bool = False


class EndAnswers(BaseModel):
    """Cut off the answers in flight of the evaluation under a lease, now or once it has begun."""

    model_config = WIRE
    kind: Literal["end_answers"] = "end_answers"
    lease: str


class EvaluateFolder(BaseModel):
    """Evaluate a checkpoint as it stands, which is no merge, on the benchmarks of a run.

    ``folder`` has the checkpoint, with the tokenizer and the chat template that it is asked with.
    The other fields are as in `Prepare` and `Evaluate`; no run need be prepared.
    """

    model_config = WIRE
    kind: Literal["evaluate_folder"] = "evaluate_folder"
    spec: dict[str, Any]
    folder: str
    benchmarks: dict[str, tuple[str, ...]]
    adapters: str | None = None
    scratch: str
    device: str
    engine: dict[str, str] = {}
    evaluation: str
    outputs: str


class Stop(BaseModel):
    """End the process."""

    model_config = WIRE
    kind: Literal["stop"] = "stop"


class StageProgress(BaseModel):
    """``done`` of ``total`` steps of a stage are finished."""

    model_config = WIRE
    kind: Literal["progress"] = "progress"
    stage: str
    done: Count
    total: Count


class NewAnswers(BaseModel):
    """Answers that the engine has given, and outcomes that EvalScope has scored, since the last.

    ``generated``, if it is there: see `AnswerListener.generated`.
    """

    model_config = WIRE
    kind: Literal["new_answers"] = "new_answers"
    answers: tuple[KeptAnswer, ...] = ()
    outcomes: tuple[ScoredOutcome, ...] = ()
    generated: dict[str, Count] = {}


class Prepared(BaseModel):
    """The sources fit each other and the run.

    ``digests`` identify the inputs by name: weights, settings files, questions. ``layers`` is the
    number of layers of a source, ``identical_layers`` are those whose tensors are equal in all
    sources, ``parts`` the layers in which each part of layers is searched, and ``outside`` names
    the groups of tensors that belong to no layer.
    """

    model_config = WIRE
    kind: Literal["prepared"] = "prepared"
    digests: dict[str, str]
    layers: Annotated[int, Field(ge=1)]
    outside: tuple[str, ...]
    identical_layers: tuple[int, ...] = ()
    parts: dict[str, tuple[int, ...]] = {}
    versions: dict[str, str]
    seconds: float


class CommandFailed(BaseModel):
    """A command failed. ``fatal``: the process must be replaced before the next one."""

    model_config = WIRE
    kind: Literal["command_failed"] = "command_failed"
    fault: FailureKind
    message: str
    hint: str = ""
    fatal: bool = False


class EngineFree(BaseModel):
    """All answers are in: the next command may come while the report is made."""

    model_config = WIRE
    kind: Literal["engine_free"] = "engine_free"


class OfReport(BaseModel):
    """An event of the command that has said `EngineFree`."""

    model_config = WIRE
    kind: Literal["of_report"] = "of_report"
    event: NewAnswers | Evaluated | Stepped | CommandFailed = Field(discriminator="kind")


Command = Prepare | Measure | UseAnswers | Evaluate | EndAnswers | EvaluateFolder | Stop
Answer = Prepared | Measured | Evaluated | Stepped | CommandFailed
"""The last event of a command."""
Event = StageProgress | NewAnswers | EngineFree | OfReport | Answer

COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])
EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])
