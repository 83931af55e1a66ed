"""The tables of RUN.toml, and what their values may be. `runfile` puts them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Integer = Annotated[int, Field(ge=-(2**53), le=2**53, strict=True)]
"""Within what every JSON and MessagePack reader keeps exact."""
Natural = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Positive = Annotated[int, Field(ge=1, le=2**53, strict=True)]
Layers = Annotated[int, Field(ge=1, le=4000, strict=True)]
"""Their weights, and those of what is outside them, fit into one message."""
Seconds = Annotated[float, Field(gt=0)]


def _portable(value: Any) -> Any:
    """Refuse what cannot travel in JSON: dates, infinities, integers over 2^53."""
    match value:
        case bool() | str():
            pass
        case int() if abs(value) > 2**53:
            raise ValueError(f"{value} is over 2^53")
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        case dict():
            for item in value.values():
                _portable(item)
        case list() | tuple():
            for item in value:
                _portable(item)
        case int() | float():
            pass
        case _:
            raise ValueError(f"{value} is neither text, number, list nor table")
    return value


def _scalar(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("must be true, false, a number or text")  # noqa: TRY004 - as all faults
    return _portable(value)


Table = Annotated[dict[str, Any], AfterValidator(_portable)]
EngineValue = Annotated[Any, AfterValidator(_scalar)]
"""A bool, int, float or str."""

Rule = Callable[[Any], Iterator[str]]
"""Yields what is wrong with the keys of a table together; see `run_faults`."""


class Section(BaseModel):
    """A table of the run file: frozen, and no key that it does not know.

    ``rules`` look at several keys together. Each asks for nothing that it does not need, because
    a rule is held against a table in which other keys are at fault, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        faults = [fault for rule in self.rules for fault in rule(self)]
        if faults:
            raise ValueError("; ".join(faults))
        return self


class Sources(Section):
    """The checkpoints: folders in Hugging Face layout. ``base`` defaults to the instruct model."""

    thinking: str
    instruct: str
    base: str | None = None

    def paths(self) -> dict[str, str]:
        """Folder of each role; ``base`` is always present."""
        return {
            "thinking": self.thinking,
            "instruct": self.instruct,
            "base": self.base or self.instruct,
        }


class Merge(Section):
    """How a vector becomes a checkpoint (Eq. 4), and what happens outside the layers.

    ``blocks`` cuts the layers into so many blocks of contiguous ones that share a weight; without
    it each layer has its own. Outside the layers there is the mean of their weights, one source to
    follow, or (``own``) a weight for each group of tensors, searched with those of the layers.
    ``parameters`` sets parameters of a model-level method that its grid does not vary, as ``gamma``
    of breadcrumbs.
    """

    blocks: Positive | None = None
    outside_layers: Literal["mean", "own", "thinking", "instruct"] = "mean"
    dtype: Literal["source", "float32", "bfloat16", "float16"] = "source"
    parameters: dict[str, float] = Field(default_factory=dict)


class Generation(Section):
    """Decoding, one choice for every evaluation, references included.

    ``template_from`` names the source whose tokenizer, chat template and generation config all
    evaluations use. ``max_tokens`` and ``context`` are in tokens.
    """

    template_from: Literal["thinking", "instruct"] = "thinking"
    max_tokens: Positive
    context: Positive
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Integer = 20
    seed: Integer = 0

    def _room_for_a_prompt(self) -> Iterator[str]:
        if self.max_tokens >= self.context:
            yield (
                f"max_tokens ({self.max_tokens}) leaves no room for a prompt in a context of "
                f"{self.context}"
            )

    rules = (_room_for_a_prompt,)


class Benchmark(Section):
    """One EvalScope benchmark on local files.

    ``adapter`` is EvalScope's name of the benchmark (or one of apbmm's own); ``path`` its folder.
    ``questions`` keeps the first so many questions, ``question_ids`` exactly those (0-based
    positions in the data file).
    """

    name: Name
    adapter: str
    path: str
    questions: Positive | None = None
    question_ids: tuple[Natural, ...] | None = None
    arguments: Table = Field(default_factory=dict)

    def _one_choice_of_questions(self) -> Iterator[str]:
        if self.questions is not None and self.question_ids is not None:
            yield "give either questions or question_ids, not both"

    def _questions_differ(self) -> Iterator[str]:
        if self.question_ids is not None and len(set(self.question_ids)) != len(self.question_ids):
            yield "question_ids names a question twice"

    rules = (_one_choice_of_questions, _questions_differ)


class Objective(Section):
    """One objective of Eq. 2: a metric averaged over benchmarks, scaled by two references."""

    name: Name
    metric: Literal["accuracy", "tokens"]
    expert: Literal["thinking", "instruct"]
    vanilla: Literal["thinking", "instruct"]
    benchmarks: tuple[Name, ...] | None = None

    def _two_references(self) -> Iterator[str]:
        if self.expert == self.vanilla:
            yield "expert and vanilla are the same source, so Eq. 2 divides by zero"

    rules = (_two_references,)


PAPER_OBJECTIVES = (
    Objective(name="reasoning", metric="accuracy", expert="thinking", vanilla="instruct"),
    Objective(name="cost", metric="tokens", expert="instruct", vanilla="thinking"),
)


class Prior(Section):
    """The discrepancy measurement (Eq. 5-14). ``prompts`` is a JSON Lines file of {"prompt"}."""

    prompts: str | None = None
    questions: Positive = 64
    max_tokens: Positive = 256
    batch: Positive = 8
    pooling: Literal["last", "mean"] = "last"
    parameter_share: Annotated[float, Field(ge=0, le=1)] = 0.5


class Algorithm(Section):
    """The search method by name, and settings of its own."""

    name: Name = "ap-bmm-plus"
    batch: Positive = 4
    """Vectors in one batch of a synchronous method; asynchronous methods ignore it."""
    settings: Table = Field(default_factory=dict)


class Budget(Section):
    """Completed evaluations (references are outside it), and how many may fail."""

    evaluations: Positive = 40
    initial: Positive = 8
    failures: Natural = 10

    def _initial_within(self) -> Iterator[str]:
        if self.initial > self.evaluations:
            yield f"initial ({self.initial}) is larger than evaluations ({self.evaluations})"

    rules = (_initial_within,)


class Engine(Section):
    """The resident vLLM; ``arguments`` go to vLLM's own engine arguments unchanged.

    ``hot_load``: merge straight into the live engine (``memory``), or write a checkpoint that vLLM
    reloads. ``auto`` takes the faster of those that a worker finds equal to a fresh engine.
    ``remote_code``: the architecture is Python code in the checkpoints' folders, to be run by
    workers that allow it (``--allow-remote-code``); the others take no part.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    hot_load: Literal["auto", "memory", "checkpoint"] = "auto"
    remote_code: bool = False
    arguments: dict[str, EngineValue] = Field(default_factory=dict)


class Evaluation(Section):
    """``vllm`` evaluates models; ``rehearsal`` a synthetic landscape, to try a cluster out."""

    kind: Literal["vllm", "rehearsal"] = "vllm"
    layers: Layers | None = None
    rehearsal_seconds: Annotated[float, Field(ge=0)] = 1.0

    def _rehearsal_needs_layers(self) -> Iterator[str]:
        if self.kind == "rehearsal" and self.layers is None:
            yield "a rehearsal has no checkpoints to count layers in: set layers"

    rules = (_rehearsal_needs_layers,)


class Timings(Section):
    """Timeouts of the protocol, in seconds; see `apbmm_master.journal.lifecycle`."""

    beat: Seconds = 5.0
    suspect: Seconds = 20.0
    unreachable: Seconds = 60.0
    reconcile: Seconds = 120.0
    orphan_grace: Seconds = 900.0
    resend: Seconds = 5.0
    stall: Seconds = 1800.0

    def _in_order(self) -> Iterator[str]:
        if not self.beat < self.suspect < self.unreachable:
            yield "expected beat < suspect < unreachable"

    rules = (_in_order,)
