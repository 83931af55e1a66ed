"""The tables of a run file, and what their values may be. `RunSpec` puts them together.

The docstring below each key is its description in the run-file reference: what the key means, and
when to change it. `reference` renders it; types, ranges and defaults come from the annotations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from apbmm_common.metrics import LONGEST_METRIC_NAME


@dataclass(frozen=True)
class Unit:
    """Marks the unit of a number, for the run-file reference."""

    name: str


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Integer = Annotated[int, Field(ge=-(2**53), le=2**53, strict=True)]
"""Every reader of JSON and MessagePack keeps integers of this range exact."""
Natural = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Positive = Annotated[int, Field(ge=1, le=2**53, strict=True)]
Tokens = Annotated[Positive, Unit("tokens")]
Layers = Annotated[int, Field(ge=1, le=4000, strict=True)]
"""The weights of so many layers, and of the tensors outside them, fit into one message."""
Seconds = Annotated[float, Field(gt=0), Unit("seconds")]


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
"""Yields what is wrong with the keys of a table together."""


class Section(BaseModel):
    """A table of the run file: frozen, and no key that it does not know.

    ``rules`` look at several keys together. Each asks for nothing that it does not need, because
    a rule is held against a table in which other keys are at fault, too.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        faults = [fault for rule in self.rules for fault in rule(self)]
        if faults:
            raise ValueError("; ".join(faults))
        return self


class Sources(Section):
    """The checkpoints that are merged: folders in Hugging Face layout, with safetensors weights.

    All must be fine-tunes of one model: the same architecture, tensor names, shapes and vocabulary.
    Nothing is downloaded.
    """

    thinking: str
    """Folder of the thinking model: the merge at x = 1."""
    instruct: str
    """Folder of the instruct model: the merge at x = 0."""
    base: str | None = None
    """Folder of the base model, which task vectors are taken from. Without it the instruct model
    is the base, as in the paper. Set it for the model-level methods (`ties`, `dare`, ...), so that
    both models have a task vector; the linear merge does not use it."""

    def paths(self) -> dict[str, str]:
        """Folder of each role; ``base`` is always present."""
        return {
            "thinking": self.thinking,
            "instruct": self.instruct,
            "base": self.base or self.instruct,
        }


class Merge(Section):
    """How a vector becomes a checkpoint (Eq. 4), and what happens outside the layers."""

    blocks: Positive | None = None
    """Number of blocks of contiguous layers that share one weight. Without it each layer has a
    weight of its own. Set it to search fewer dimensions. Only for layer-wise methods; at most the
    number of layers."""
    outside_layers: Literal["mean", "own", "thinking", "instruct"] = "mean"
    """Weights of the tensors that belong to no layer (embeddings, final norm, output head): `mean`
    gives them the mean of the layers' weights, `own` searches one more weight for each of these
    groups (layer-wise methods only), `thinking` and `instruct` copy them from that source. With
    `mean` and `own` the merges at x = 0 and x = 1 are the sources in every tensor."""
    dtype: Literal["source", "float32", "bfloat16", "float16"] = "source"
    """Dtype that merged tensors are stored in: `source` is each tensor's own in the instruct model.
    Sums are computed in float32 and rounded once in any case."""
    parameters: dict[str, float] = Field(default_factory=dict)
    """Parameters of a model-level merge method that its grid does not vary, by name (`gamma` of
    `breadcrumbs`, say). The merge methods and their parameters are listed below."""


class Generation(Section):
    """How answers are decoded. One choice serves every evaluation, references included."""

    template_from: Literal["thinking", "instruct"] = "thinking"
    """Source whose tokenizer, chat template and generation config all evaluations use. The other
    source is then asked with a template that is not its own."""
    max_tokens: Tokens
    """Most tokens of one answer. A longer answer is cut off and counts as truncated. Choose it so
    that few answers of the thinking model are cut."""
    context: Tokens
    """Length of vLLM's context: prompt and answer together. It must be larger than `max_tokens` by
    the longest prompt, and no larger than the models' position limit."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature. 0 is greedy decoding, which gives the same answers each time on one
    kind of device."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus sampling: only the most probable tokens with this total probability are drawn. Of no
    effect at temperature 0."""
    top_k: Integer = 20
    """Only so many of the most probable tokens are drawn; -1 draws from all. Of no effect at
    temperature 0."""
    seed: Integer = 0
    """Seed of everything that an evaluation draws: sampling at a temperature above 0, and the
    worked examples or orders of choices that a benchmark draws. It is apart from the seed of the
    search, so that every merge is asked the same."""

    def _room_for_a_prompt(self) -> Iterator[str]:
        if self.max_tokens >= self.context:
            yield (
                f"max_tokens ({self.max_tokens}) leaves no room for a prompt in a context of "
                f"{self.context}"
            )

    rules = (_room_for_a_prompt,)


EXACT_ADAPTER = "apbmm_exact"
DEMO_ADAPTERS = "apbmm_demo_"
"""What the names of the adapters of the demo pair's benchmarks begin with."""


def is_own_adapter(adapter: str) -> bool:
    """Whether a benchmark adapter is apbmm's own and not EvalScope's."""
    return adapter == EXACT_ADAPTER or adapter.startswith(DEMO_ADAPTERS)


class Benchmark(Section):
    """One benchmark on local files. A run has one or more of these tables."""

    name: Name
    """Name in results, in objectives and for a worker's `--path NAME=FOLDER`. Not `thinking`,
    `instruct`, `base` or `prompts`, which name other paths there."""
    adapter: str
    """EvalScope's name of the benchmark (`aime25`, `gpqa_diamond`, ...), or apbmm's own
    `apbmm_exact`, which compares answers to `{"id", "question", "answer"}` objects exactly."""
    path: str
    """Folder of the benchmark's data: a data file for each split that the adapter reads
    (`test.jsonl`, say; also JSON, CSV and Parquet)."""
    questions: Positive | None = None
    """Asks only the first so many questions of the data file. Without it all are asked. Lower it to
    make evaluations cheaper, at the price of noisier accuracies. Needs an adapter whose files apbmm
    knows."""
    question_ids: tuple[Natural, ...] | None = None
    """Asks exactly these questions, by their positions in the data file, from 0. Instead of
    `questions`, to leave single questions out."""
    arguments: Table = Field(default_factory=dict)
    """Further arguments of the adapter, handed to EvalScope's `dataset_args` as they are
    (`few_shot_num`, say)."""

    def _one_choice_of_questions(self) -> Iterator[str]:
        if self.questions is not None and self.question_ids is not None:
            yield "give either questions or question_ids, not both"

    def _questions_differ(self) -> Iterator[str]:
        if self.question_ids is not None and len(set(self.question_ids)) != len(self.question_ids):
            yield "question_ids names a question twice"

    rules = (_one_choice_of_questions, _questions_differ)


class Objective(Section):
    """One objective of Eq. 2: a metric averaged over benchmarks, scaled by two references.

    A run has two to five of these tables. Without any, the paper's two objectives are searched:
    `reasoning` (`accuracy`, expert `thinking`) and `cost` (`tokens`, expert `instruct`).
    """

    name: Name
    """Name of the objective wherever results are shown."""
    metric: Annotated[str, Field(min_length=1, max_length=LONGEST_METRIC_NAME)]
    """The number that is measured on each question and averaged: `accuracy`, `tokens`, `seconds`
    (from when the engine is given the question to the last token), `truncated` (whether the limit
    of tokens cut the answer off), or a score that EvalScope reports on each of the benchmarks, by
    its name in that report (`f1`; `accuracy:pass_at_k[k=4]` for one that is not a mean over the
    questions)."""
    expert: Literal["thinking", "instruct"]
    """The source that scores 1: the one that is good at it."""
    vanilla: Literal["thinking", "instruct"]
    """The source that scores 0. Not the same as `expert`."""
    benchmarks: tuple[Name, ...] | None = None
    """Names of the benchmarks that are averaged. Without it all are."""

    def _two_references(self) -> Iterator[str]:
        if self.expert == self.vanilla:
            yield "expert and vanilla are the same source, so Eq. 2 divides by zero"

    rules = (_two_references,)


PAPER_OBJECTIVES = (
    Objective(name="reasoning", metric="accuracy", expert="thinking", vanilla="instruct"),
    Objective(name="cost", metric="tokens", expert="instruct", vanilla="thinking"),
)


class Prior(Section):
    """How the layers' importance is measured (Eq. 5-14): once, by one worker, before the search.

    Methods that take no importance ignore this table.
    """

    prompts: str | None = None
    """JSON Lines file of `{"prompt": "..."}` objects that the activation discrepancy is measured
    on. Without it the benchmarks' own questions are taken, which are scored later: name prompts
    that are not scored where the result is to be reported."""
    questions: Positive = 64
    """Most prompts that are run. More make the measurement slower and steadier."""
    max_tokens: Tokens = 256
    """A prompt is cut to so many tokens, its chat template included."""
    batch: Positive = 8
    """Prompts that go through a model at once; also the mini-batch of Eq. 7. Lower it where the
    device runs out of memory."""
    pooling: Literal["last", "mean"] = "last"
    """How the activations of a prompt's tokens become one vector for each layer: that of the last
    token, or the mean over all tokens."""
    parameter_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the parameter discrepancy in the importance (Eq. 11); the rest is the weight of the
    activation discrepancy."""


class Algorithm(Section):
    """The search method, and settings of its own."""

    name: Name = "ap-bmm-plus"
    """Name of the search method."""
    batch: Positive = 4
    """Vectors in one batch of a synchronous method, which waits for a whole batch before it
    proposes the next. Set it to the number of workers. Asynchronous methods ignore it."""
    settings: Table = Field(default_factory=dict)
    """Settings of the search method, by name. Those of each method are listed with it."""


class Budget(Section):
    """When the search ends. The two references are measured beside it and do not count."""

    evaluations: Positive = 40
    """Completed evaluations after which the run is finished. It may be raised when a run is
    resumed, and lowered to what is done."""
    initial: Positive = 8
    """How many of these evaluations are the initial design, before the first proposal of a model.
    At most `evaluations`."""
    failures: Natural = 10
    """How many vectors may fail for good before the run ends as failed. It may be changed when a
    run is resumed."""

    def _initial_within(self) -> Iterator[str]:
        if self.initial > self.evaluations:
            yield f"initial ({self.initial}) is larger than evaluations ({self.evaluations})"

    rules = (_initial_within,)


class Engine(Section):
    """The engine that stays resident on each worker and evaluates one merge after the other."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype that the engine computes in. `auto` is the one that the merge's config.json names."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a card's memory that vLLM takes. Lower it where something else needs memory of the
    same card. Of no effect on a CPU."""
    hot_load: Literal["auto", "memory", "checkpoint"] = "auto"
    """How a merge reaches the engine: `memory` merges straight into the live engine, `checkpoint`
    writes a checkpoint that vLLM reloads. `auto` takes the faster of those that a worker has found
    equal to a fresh engine. Where the way that is chosen is not equal to a fresh engine, every
    merge gets a fresh engine."""
    remote_code: bool = False
    """The architecture is Python code in the checkpoints' folders, to be run by workers that were
    started with `--allow-remote-code`; other workers take no part. Set it once the code has been
    read. Without it none of that code is run."""
    arguments: dict[str, EngineValue] = Field(default_factory=dict)
    """vLLM's own engine arguments, by name (`max_num_seqs = 64`, say). Arguments that other keys
    decide, and arguments that name code, files or hosts, are refused. `apbmm-worker --engine-arg`
    sets one for a single worker, over these."""


class Evaluation(Section):
    """Whether models are evaluated, or measurements invented to try a cluster out."""

    kind: Literal["vllm", "rehearsal"] = "vllm"
    """`vllm` evaluates models. `rehearsal` invents measurements on a synthetic landscape, with
    workers started by `--gpu rehearsal`, and reads neither checkpoints nor benchmarks."""
    layers: Layers | None = None
    """Number of layers of a rehearsal's invented models. Required for a rehearsal, unused
    otherwise."""
    rehearsal_seconds: Annotated[float, Field(ge=0), Unit("seconds")] = 1.0
    """How long a rehearsal's evaluation of the thinking model takes, on average; merges with fewer
    tokens take less."""

    def _rehearsal_needs_layers(self) -> Iterator[str]:
        if self.kind == "rehearsal" and self.layers is None:
            yield "a rehearsal has no checkpoints to count layers in: set layers"

    rules = (_rehearsal_needs_layers,)


class Timings(Section):
    """Time-outs of the protocol. The defaults suit evaluations of minutes to hours.

    All may be changed when a run is resumed.
    """

    beat: Seconds = 5.0
    """How often a worker tells the master that it is alive."""
    suspect: Seconds = 20.0
    """A worker that has been silent for so long is shown as suspect and gets no new work. More
    than `beat`."""
    unreachable: Seconds = 60.0
    """A worker without work that has been silent for so long is taken off the list; one with work
    is shown as orphaned. A worker whose master has been silent for so long looks for it anew. More
    than `suspect`. Raise it on networks that fail for minutes."""
    reconcile: Seconds = 120.0
    """How long a restarted master waits for the workers that held work of its predecessor, before
    it gives that work to others."""
    orphan_grace: Seconds = 900.0
    """How long beyond `unreachable` the master keeps work for a silent worker, which goes on
    evaluating and delivers later; at least twice the 95th percentile of the evaluations' durations
    so far. After that another worker evaluates it anew."""
    resend: Seconds = 5.0
    """How often an assignment or a result is sent again until it is acknowledged."""
    stall: Seconds = 1800.0
    """A worker whose evaluation shows no progress for so long ends it as failed and starts a new
    engine. Raise it where single answers or the start of the engine take longer."""

    def _in_order(self) -> Iterator[str]:
        if not self.beat < self.suspect < self.unreachable:
            yield "expected beat < suspect < unreachable"

    rules = (_in_order,)
