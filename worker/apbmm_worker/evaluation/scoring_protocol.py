"""What the engine's process and the scoring process say to each other, over an inherited socket.

    prepare -> questions*, ready
    score, answered*, unanswered* -> ask*, outcome*, enough?, collected?, abort?, scored
    any failure -> failed

The engine's process sends ``score`` and puts the prepared questions of its step in flight, but for
those whose answers it has already. It sends each answer as it is finished, by the number of its
question: prepared questions are counted from 0 through all benchmarks, those of ``ask`` follow.
When the scoring process says ``enough``, it sends what there is of the other answers, with finish
reason ``cut``.
`message_socket` says how messages are encoded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from apbmm_common.errors import (
    ApbmmError,
    DataError,
    EvaluationError,
    FailureKind,
    RunFileError,
    SourceError,
    UsageError,
    failure_kind,
    unreadable,
)
from apbmm_common.protocol.messages import (
    WIRE,
    BenchmarkPart,
    BenchmarkResult,
    Count,
    ScoredOutcome,
)
from apbmm_worker.engine.driver import Completion, FinishReason, Prompt

QUESTIONS_A_MESSAGE = 256
_USAGE_ERRORS = {kind.__name__: kind for kind in (UsageError, RunFileError, SourceError, DataError)}


@dataclass(frozen=True)
class EvalScopeResult:
    """Results by the benchmark's name; of a step that left answers out, ``parts`` in their place.

    ``seconds`` is the time to the last token, ``report_seconds`` the time from there to the
    results. ``kept`` counts the prepared questions that the engine was not asked, because an
    earlier attempt's answers were at hand.
    """

    benchmarks: dict[str, BenchmarkResult]
    seconds: float
    report_seconds: float
    kept: int = 0
    parts: dict[str, BenchmarkPart] = field(default_factory=dict)


class OwnAdapters(BaseModel):
    """A run's file of adapters that may be run, and the SHA-256 (hex) of its content."""

    model_config = WIRE
    file: str
    digest: str

    @classmethod
    def of(cls, file: Path) -> OwnAdapters:
        """The file as it is now. Raises `SourceError` if it cannot be read."""
        try:
            content = file.read_bytes()
        except OSError as error:
            raise unreadable(file, error) from error
        return cls(file=str(file), digest=hashlib.sha256(content).hexdigest())


class PrepareQuestions(BaseModel):
    """Choose, read and render the questions of a run: the arguments of `prepare_benchmarks`.

    ``adapters`` are registered before.
    """

    model_config = WIRE
    kind: Literal["prepare"] = "prepare"
    benchmarks: tuple[dict[str, Any], ...]
    folders: dict[str, tuple[str, ...]]
    generation: dict[str, Any]
    template_source: str
    scratch: str
    remote_code: bool
    adapters: OwnAdapters | None = None


class Score(BaseModel):
    """Score one merge; records go to ``out_dir``.

    Answers to the prepared questions follow that are ``asked`` in this step, all where there are no
    numbers. When ``needed`` of them are answered (0: all), it is enough.
    """

    model_config = WIRE
    kind: Literal["score"] = "score"
    out_dir: str
    asked: tuple[Count, ...] = ()
    needed: Count = 0


class Answered(BaseModel):
    """The answer to a question."""

    model_config = WIRE
    kind: Literal["answered"] = "answered"
    number: Count
    text: str
    token_ids: tuple[Count, ...]
    prompt_tokens: Count
    finish_reason: FinishReason
    seconds: float

    @classmethod
    def of(cls, number: int, completion: Completion) -> Answered:
        """An answer of the engine's."""
        return cls(
            number=number,
            text=completion.text,
            token_ids=completion.token_ids,
            prompt_tokens=completion.prompt_tokens,
            finish_reason=completion.finish_reason,
            seconds=completion.seconds,
        )

    @property
    def completion(self) -> Completion:
        """The answer as the engine gave it."""
        return Completion(
            self.text, self.token_ids, self.prompt_tokens, self.finish_reason, self.seconds
        )


class Failed(BaseModel):
    """An error: the name of its class and what it says."""

    model_config = WIRE
    kind: Literal["failed"] = "failed"
    error: str
    message: str
    hint: str
    fault: FailureKind

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """What an error says; one that is not our own is an infrastructure fault."""
        if not isinstance(error, ApbmmError):
            text = f"unexpected {type(error).__name__}: {error}"
            error = EvaluationError(text, kind="infrastructure")
        return cls(
            error=type(error).__name__,
            message=error.message,
            hint=error.hint,
            fault=failure_kind(error),
        )

    @property
    def exception(self) -> ApbmmError:
        """The error again."""
        kind = _USAGE_ERRORS.get(self.error)
        if kind is None:
            return EvaluationError(self.message, self.hint, kind=self.fault)
        return kind(self.message, self.hint)


class Unanswered(BaseModel):
    """A question that the engine did not answer: its ``failure``, or none if it was dropped."""

    model_config = WIRE
    kind: Literal["unanswered"] = "unanswered"
    number: Count
    failure: Failed | None = None


class AskedPrompt(BaseModel):
    """A prompt: token ids, the seed of the answer's draws, and its last message's text."""

    model_config = WIRE
    token_ids: tuple[Count, ...]
    seed: Count
    text: str = ""

    @property
    def prompt(self) -> Prompt:
        """The prompt for the engine."""
        return Prompt(self.token_ids, self.seed)


class Questions(BaseModel):
    """The next prepared questions of a benchmark, in the order in which they are to be asked."""

    model_config = WIRE
    kind: Literal["questions"] = "questions"
    benchmark: str
    prompts: tuple[AskedPrompt, ...]


class Ready(BaseModel):
    """All questions are prepared; ``digests`` of what is asked and expected, by benchmark.

    ``ask_once`` are the benchmarks whose adapters ask each question once.
    """

    model_config = WIRE
    kind: Literal["ready"] = "ready"
    digests: dict[str, str]
    ask_once: tuple[str, ...] = ()


class Ask(BaseModel):
    """Put more prompts in flight; their numbers begin with ``first``."""

    model_config = WIRE
    kind: Literal["ask"] = "ask"
    first: Count
    prompts: tuple[AskedPrompt, ...]


class Enough(BaseModel):
    """The step ends: cut off what is in flight."""

    model_config = WIRE
    kind: Literal["enough"] = "enough"


class Collected(BaseModel):
    """EvalScope has all answers; what is left is scoring."""

    model_config = WIRE
    kind: Literal["collected"] = "collected"


class Abort(BaseModel):
    """Drop all prompts in flight: this evaluation has failed."""

    model_config = WIRE
    kind: Literal["abort"] = "abort"


class QuestionScored(BaseModel):
    """EvalScope has scored a question."""

    model_config = WIRE
    kind: Literal["outcome"] = "outcome"
    outcome: ScoredOutcome


class Scored(BaseModel):
    """The results of all benchmarks, confirmed by EvalScope's own reports.

    Where answers are left out, ``parts`` has what there is of all benchmarks.
    """

    model_config = WIRE
    kind: Literal["scored"] = "scored"
    benchmarks: dict[str, BenchmarkResult] = {}
    parts: dict[str, BenchmarkPart] = {}


ToScoring = PrepareQuestions | Score | Answered | Unanswered
FromScoring = (
    Questions | Ready | Ask | Enough | Collected | Abort | QuestionScored | Scored | Failed
)

TO_SCORING: TypeAdapter[ToScoring] = TypeAdapter(Annotated[ToScoring, Field(discriminator="kind")])
FROM_SCORING: TypeAdapter[FromScoring] = TypeAdapter(
    Annotated[FromScoring, Field(discriminator="kind")]
)


def unexpected(message: FromScoring) -> EvaluationError:
    """The error of a message that nobody waits for."""
    return EvaluationError(
        f"the scoring process said {message.kind}, which was not asked for",
        "this is a defect of apbmm",
        kind="infrastructure",
    )
