"""The tables of a run file, and what their values may be. `RunSpec` puts them together.

The docstring below each key is its description in the run-file reference: what the key means, and
when to change it; types, ranges and defaults come from the annotations.

A rule on several keys is written as a validator of the last of them, in the order in which they are
defined. pydantic shows it only those earlier keys whose values are valid, so all faults of a table
are found together, and one wrong key does not produce a second error.

The same models travel to the workers in WELCOME, so that a worker needs no run file of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from apbmm_common.answer_rules import AnswerRule
from apbmm_common.canonical_json import canonical_hash
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.errors import RunFileError
from apbmm_common.merge_methods import LINEAR, searched_as
from apbmm_common.metrics import LONGEST_METRIC_NAME, METRICS, Better, metric
from apbmm_common.run_file.blocks import block_by_borders, block_of
from apbmm_common.run_file.constraints import (
    SIGNS,
    Constraint,
    Side,
    constraints_of,
    faults_of_limits,
    flattened,
)
from apbmm_common.run_file.engine_limits import forbidden_arguments


@dataclass(frozen=True)
class Unit:
    """Marks the unit of a number, for the run-file reference."""

    name: str


@dataclass(frozen=True)
class HostPath:
    """Marks a key whose value is a path, which may be another one on each host.

    Such a path is made absolute when the run file is read, after ``~`` and ``$VARIABLES`` of the
    environment have been replaced. A worker maps it by its name
    (``--path NAME=PATH``) or restricts it (``--root``). Its name is the value of the key ``named``
    of the same table or, without ``named``, the marked key itself.
    """

    named: str = ""


PAPER_SOURCES = ("thinking", "instruct")
"""The paper's two sources; the second one is the anchor."""
LEAST_SOURCES, MOST_SOURCES = 2, 8
SOURCE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
SOURCE_NAME_RULE = "1 to 32 letters, digits, dashes and underscores, a letter first"
EVALUATION_ID = re.compile(r"[el][0-9]+")
RESERVED_SOURCE_NAMES = frozenset(
    ("adapters", "prompts", "mean", "own", "measure", "try", "front", "all", "rehearsal")
)
"""Names of other paths, of other rules for tensors outside the layers, and of evaluations."""


@dataclass(frozen=True)
class NamesSource:
    """Marks a key whose value is the name of a source, or one of ``others``."""

    others: tuple[str, ...] = ()


SourceName = Annotated[str, NamesSource()]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
NAME_RULE = "1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
Path = Annotated[str, HostPath()]
OptionalPath = Annotated[str | None, HostPath()]
Integer = Annotated[int, Field(ge=-(2**53), le=2**53, strict=True)]
"""Every reader of JSON and MessagePack keeps integers of this range exact."""
Number = Annotated[float, Field(strict=True)]
"""Neither text nor true."""
Natural = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Positive = Annotated[int, Field(ge=1, le=2**53, strict=True)]
Tokens = Annotated[Positive, Unit("tokens")]
Layers = Annotated[int, Field(ge=1, le=4000, strict=True)]
"""The weights of so many layers, and of the tensors outside them, fit into one message."""
Seconds = Annotated[Number, Field(gt=0), Unit("seconds")]


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


def _refuse(faults: Iterable[str]) -> None:
    """Raise ValueError with one line for each fault, if there are any."""
    lines = "\n".join(faults)
    if lines:
        raise ValueError(lines)


class Section(BaseModel):
    """A table of the run file: frozen, and no key that it does not know."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
    )
    other_keys: ClassVar[str] = ""
    """What a key of the author's own choice means, which is then the path that it names. Empty for
    a table that takes none."""


class AdaptedSource(Section):
    """A source that is a LoRA adapter on a model."""

    path: Path
    """Folder of the model that the adapter was trained on."""
    adapter: Path
    """Folder of the adapter, as PEFT saves it. A worker adds it to the model once; the source's
    tokenizer and config are the model's."""


def _kind_of_source(value: Any) -> str:
    return _ADAPTED if isinstance(value, Mapping | AdaptedSource) else _FOLDER


_FOLDER, _ADAPTED = "(folder)", "(adapter)"
_TEXT, _LIST = "(text)", "(list)"
KINDS_OF_VALUES = (_FOLDER, _ADAPTED, _TEXT, _LIST)
"""Kinds of sources and of texts, which pydantic puts into the places of faults."""
Source = Annotated[
    Annotated[Path, Tag(_FOLDER)] | Annotated[AdaptedSource, Tag(_ADAPTED)],
    Discriminator(_kind_of_source),
]


class SourcesSection(Section):
    """The checkpoints that are merged: folders in Hugging Face layout, with safetensors weights.

    Two to eight, each under a name of your choice: a merge is a weighted sum of them. All must be
    fine-tunes of one model: the same architecture, tensor names, shapes and vocabulary. Nothing is
    downloaded. Paths, here and in the other tables, are relative to the run file; `~` and
    `$VARIABLES` are replaced by the environment in which it is read.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra={"minProperties": LEAST_SOURCES})
    other_keys: ClassVar[str] = (
        "Folder of a source, under a name of your choice: from two to eight such keys. `thinking` "
        "and `instruct` are such names. `{ path = FOLDER, adapter = FOLDER }` is a model with a "
        "LoRA adapter of PEFT's, which workers add to it once; it is then like any other source."
    )
    __pydantic_extra__: dict[str, Source]

    base: OptionalPath = None
    """Folder of the base model, which task vectors are taken from. Without it the anchor is the
    base, as the instruct model is in the paper. Set it for the model-level methods (`ties`, `dare`,
    ...), so that every source has a task vector; the linear merge does not use it."""
    anchor: SourceName | None = None
    """Name of the source that a merge equals at x = 0. Without it the last one of the table; of
    `thinking` and `instruct` it is `instruct`."""

    @model_validator(mode="after")
    def _names_of_sources(self) -> SourcesSection:
        _refuse(self._faults())
        return self

    def _faults(self) -> Iterator[str]:
        given = list(self.__pydantic_extra__)
        for name in given:
            if not SOURCE_NAME.fullmatch(name):
                yield f"{name!r} cannot name a source: {SOURCE_NAME_RULE}"
            elif name in RESERVED_SOURCE_NAMES or EVALUATION_ID.fullmatch(name):
                yield f"{name} cannot name a source: it means something else to apbmm"
        if not LEAST_SOURCES <= len(given) <= MOST_SOURCES:
            number = f"{len(given)} ({', '.join(given)})" if given else "none"
            yield f"from {LEAST_SOURCES} to {MOST_SOURCES} sources are merged, not {number}"
        if self.anchor is not None and self.anchor not in given:
            yield f"anchor: no source is called {self.anchor}: {', '.join(given)}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the merged sources, in the order of their weights: the anchor is the last.

        The others are in the order of the table. Those of the paper are thinking, instruct.
        """
        given = tuple(self.__pydantic_extra__)
        last = self.anchor or given[-1]
        if self.anchor is None and {*given} == {*PAPER_SOURCES}:
            last = PAPER_SOURCES[-1]
        return (*(name for name in given if name != last), last)

    @property
    def folders(self) -> dict[str, str]:
        """The folders of the merged sources by name, in the order of `names`.

        Where a source is an adapter on a model, that of the model.
        """
        given = {name: self.__pydantic_extra__[name] for name in self.names}
        return {n: s.path if isinstance(s, AdaptedSource) else s for n, s in given.items()}

    @property
    def lora_adapters(self) -> dict[str, str]:
        """The folders of the adapters by the names of their sources."""
        given = {name: self.__pydantic_extra__[name] for name in self.names}
        return {n: s.adapter for n, s in given.items() if isinstance(s, AdaptedSource)}

    @property
    def with_base(self) -> dict[str, str]:
        """The folders of the merged sources, and of the base where it is one of its own."""
        return self.folders | ({} if self.base is None else {BASE_ROLE: self.base})


def _kind_of_texts(value: Any) -> str:
    return _LIST if isinstance(value, list | tuple) else _TEXT


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[
    Annotated[Text, Tag(_TEXT)] | Annotated[tuple[Text, ...], Field(min_length=1), Tag(_LIST)],
    Discriminator(_kind_of_texts),
]


class FilterSection(Section):
    """Tensors of the layers, by texts that their names hold, as in mergekit's configurations."""

    name: Name
    """Name of the filter wherever weights are shown."""
    tensors: Texts
    """Text that is part of the tensors' names (`self_attn`, say), or a list of such texts. `"*"`
    fits every name."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, one of which a tensor's name has to hold."""
        return (self.tensors,) if isinstance(self.tensors, str) else self.tensors


KEYS_OF_GRAINS: Mapping[str, tuple[str, ...]] = {
    "layer": (),
    "blocks": ("blocks", "borders"),
    "parts": ("blocks", "borders", "experts_apart"),
    "filters": ("blocks", "borders", "filters"),
    "adaptive": ("blocks",),
}
"""The keys of `[merge]` that have an effect on each grain."""


class MergeSection(Section):
    """How a vector becomes a checkpoint (Eq. 4), and what happens outside the layers.

    With `grain = "filters"`, `[[merge.filters]]` tables name the tensors. The first filter that
    fits a tensor of a layer counts. Tensors of a layer that none fits get the mean of the layer's
    other weights.
    """

    combine: Literal["simplex", "task_arithmetic"] = "simplex"
    """What the weights of a layer-wise merge are. `simplex`: those of all sources sum to 1.
    `task_arithmetic`: each source has a weight in [0, 1] of its own, by which its difference from
    the base is added to the base. That takes one number more for each layer, a `base` in
    `[sources]`, and may find merges that no weighted mean is; x = 0 is then the base."""
    grain: Literal["layer", "blocks", "parts", "filters", "adaptive"] = "layer"
    """What shares one weight, in a layer-wise merge. `layer`: each layer has a weight of its own.
    `blocks`: those of a block of contiguous layers; `blocks` says how many, or `borders` where they
    begin. `parts`: attention and MLP of a layer each have their own, norms with the part that they
    are of. `filters`: so has each filter of `[[merge.filters]]` in a layer. `adaptive`: `blocks`
    many blocks, whose borders are found from how much the sources differ in each layer once that is
    measured. Fewer weights are learnt from fewer evaluations, more can tell more merges apart.
    Where `blocks` or `borders` are given and this key is not, it is `blocks`."""
    blocks: Positive | None = None
    """Number of blocks of contiguous layers that share their weights, of sizes that differ by one
    layer at most (`adaptive` chooses them). With `parts` and `filters` each part or filter of a
    block has one weight, with `blocks = 1` that of all layers. At most the number of layers."""
    borders: tuple[Positive, ...] = ()
    """The first layers of all blocks but the first, instead of `blocks`: `[4, 20]` are the blocks
    0-3, 4-19 and the rest."""
    filters: tuple[FilterSection, ...] = ()
    """The filters of `grain = "filters"`."""
    experts_apart: bool = False
    """With `grain = "parts"`: the experts of a mixture are a part of their own, apart from routers,
    shared experts and the MLPs of other layers."""
    outside_layers: Annotated[str, NamesSource(("mean", "own"))] = "mean"
    """Weights of the tensors that belong to no layer (embeddings, final norm, output head): `mean`
    gives them the mean of the layers' weights, `own` searches weights of their own for each of
    these groups (layer-wise methods only), the name of a source copies them from that source. With
    `mean` and `own` a merge of one source alone is that source in every tensor."""
    dtype: Literal["source", "float32", "bfloat16", "float16"] = "source"
    """Dtype that merged tensors are stored in: `source` is each tensor's own in the anchor.
    Sums are computed in float32 and rounded once in any case."""
    vocabulary: Literal["same", "common"] = "same"
    """What of the sources' vocabularies is merged. `same` expects one vocabulary, and embeddings
    and head of one size. `common` merges the first rows, as many as all sources have: set it where
    fine-tunes were padded to other sizes. Each token must have one of those rows, and tokens and
    ids that two sources both have must be the same in both."""
    parameters: dict[str, Number] = Field(default_factory=dict)
    """Parameters of a model-level merge method that its grid does not vary, by name (`gamma` of
    `breadcrumbs`, say). The merge methods and their parameters are listed below."""

    @model_validator(mode="before")
    @classmethod
    def _blocks_without_a_grain(cls, table: Any) -> Any:
        """Take a table that names blocks alone for block-wise, as all were before the key came."""
        if isinstance(table, dict) and "grain" not in table:
            return {**table, "grain": implied_grain(table)}
        return table

    @model_validator(mode="after")
    def _keys_of_the_grain(self) -> MergeSection:
        _refuse(self._grain_faults())
        return self

    def _grain_faults(self) -> Iterator[str]:
        given = {
            "blocks": self.blocks is not None,
            "borders": bool(self.borders),
            "filters": bool(self.filters),
            "experts_apart": self.experts_apart,
        }
        for key, is_given in given.items():
            if is_given and key not in KEYS_OF_GRAINS[self.grain]:
                yield f'{key} has no effect on grain = "{self.grain}"'
        if self.blocks is not None and self.borders:
            yield "give either blocks, their number, or borders, not both"
        if self.grain == "blocks" and self.blocks is None and not self.borders:
            yield 'grain = "blocks" needs blocks, their number, or borders'
        if self.grain == "adaptive" and self.blocks is None:
            yield 'grain = "adaptive" needs blocks, their number'
        if self.grain == "filters" and not self.filters:
            yield 'grain = "filters" needs [[merge.filters]] tables'
        if list(self.borders) != sorted(set(self.borders)):
            yield f"borders: {list(self.borders)} do not increase"
        names = [each.name for each in self.filters]
        if len(set(names)) != len(names):
            yield f"two filters have the same name: {names}"

    def block_of(self, layers: int) -> tuple[int, ...]:
        """The block of each layer as the keys say; every layer is one where they say nothing.

        Raises `RunFileError` where there are too few layers.
        """
        if self.borders:
            return block_by_borders(layers, self.borders)
        return block_of(layers, layers if self.blocks is None else self.blocks)


def implied_grain(merge: Mapping[str, Any]) -> str:
    """The grain of a `[merge]` table that does not name it."""
    return "blocks" if merge.get("blocks") is not None or merge.get("borders") else "layer"


class GenerationSection(Section):
    """How answers are decoded. One choice serves every evaluation, references included."""

    template_from: SourceName = PAPER_SOURCES[0]
    """Source whose tokenizer, chat template and generation config all evaluations use. The other
    sources are then asked with a template that is not their own. Without it `thinking`, or the
    first source where none is called so."""
    max_tokens: Tokens
    """Most tokens of one answer. A longer answer is cut off and counts as truncated. Choose it so
    that few answers of the source that thinks longest are cut."""
    context: Tokens
    """Length of vLLM's context: prompt and answer together. It must be larger than `max_tokens` by
    the longest prompt, and no larger than the models' position limit."""
    temperature: Annotated[Number, Field(ge=0)] = 0.0
    """Sampling temperature. 0 is greedy decoding, which gives the same answers each time on one
    kind of device."""
    top_p: Annotated[Number, Field(gt=0, le=1)] = 0.95
    """Nucleus sampling: only the most probable tokens with this total probability are drawn. Of no
    effect at temperature 0."""
    top_k: Annotated[Integer, Field(ge=-1)] = 20
    """Only so many of the most probable tokens are drawn; -1 draws from all. Of no effect at
    temperature 0."""
    seed: Integer = 0
    """Seed of everything that an evaluation draws: sampling at a temperature above 0, and the
    worked examples or orders of choices that a benchmark draws. It is apart from the seed of the
    search, so that every merge is asked the same."""
    thought_end: Annotated[str, Field(max_length=64)] = "</think>"
    """Tag that closes a model's thought; without its slash, the tag that opens one. An answer is
    scored after its last closing tag. If the answer, or the chat template in the prompt, opened a
    thought that the answer never closed, the answer is empty and counts as truncated. Tokens count
    the thought all the same. `""` leaves answers as they are to EvalScope."""

    @field_validator("thought_end")
    @classmethod
    def _closes(cls, tag: str) -> str:
        if tag and "/" not in tag:
            raise ValueError(
                f"{tag!r} has no slash, so the tag that opens a thought would be equal"
            )
        return tag

    @field_validator("context")
    @classmethod
    def _leaves_room_for_a_prompt(cls, context: int, info: ValidationInfo) -> int:
        most = info.data.get("max_tokens", 0)
        if most >= context:
            raise ValueError(
                f"max_tokens ({most}) leaves no room for a prompt in a context of {context}"
            )
        return context


MOST_REPEATS = 1000
EXACT_ADAPTER = "apbmm_exact"
ANSWER_ADAPTER = "apbmm_answer"
DEMO_ADAPTERS = "apbmm_demo_"
"""What the names of the adapters of the demo pair's benchmarks begin with."""


def is_own_adapter(adapter: str) -> bool:
    """Whether a benchmark adapter is apbmm's own and not EvalScope's."""
    return adapter in (EXACT_ADAPTER, ANSWER_ADAPTER) or adapter.startswith(DEMO_ADAPTERS)


class BenchmarkSection(Section):
    """One benchmark on local files. A run has one or more of these tables."""

    name: Name
    """Name in results, in objectives and for a worker's `--path NAME=FOLDER`. Not the name
    of a source, `base`, `adapters` or `prompts`, which name other paths there."""
    adapter: str
    """EvalScope's name of the benchmark (`aime25`, `gpqa_diamond`, ...), or one of apbmm's own:
    `apbmm_answer` for questions and answers of one's own, `apbmm_exact`, which compares whole
    answers to `{"id", "question", "answer"}` objects exactly; or one that the file `adapters`
    registers."""
    path: Annotated[str | tuple[str, ...], HostPath(named="name")]
    """The benchmark's data: a folder with a data file for each split that the adapter reads
    (`test.jsonl`, say; also JSON, CSV and Parquet), a single data file, or a list of data files
    that are asked as one benchmark."""
    questions: Positive | None = None
    """Asks only the first so many questions of the data file. Without it all are asked. Where the
    data is sorted, by difficulty say, the first are unlike the rest: `sample` takes some of all."""
    sample: Positive | None = None
    """Asks so many questions, drawn at random with the seed of `[generation]`: the same ones
    whatever the order of the rows. Each subset or level of the data gets its share. Lower it to
    make evaluations cheaper, at the price of noisier accuracies. Instead of `questions`."""
    question_ids: tuple[Natural, ...] | None = None
    """Asks exactly these questions, by the positions of their rows in the data file, from 0.
    Instead of `questions` and `sample`, to leave single questions out."""
    repeats: Annotated[Positive, Field(le=MOST_REPEATS)] = 1
    """Asks each question so many times, with other draws each time, and scores the mean of its
    answers (avg@k). Set it where a benchmark has few questions: AIME has 30. Questions, not
    answers, are counted by `questions`, `sample` and all intervals. Needs a temperature above 0."""
    holdout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of these questions that the search does not ask: `apbmm confirm` asks them. They are
    drawn as those of `sample` are. Without it that of `[confirm]`. Needs an adapter whose files
    apbmm knows."""
    held_out: bool = False
    """Asks only the share that `holdout` keeps out of a search. The run of `apbmm confirm` sets
    it."""
    asked_before: Natural = 0
    """How many answers a search has drawn to each of these questions: other draws are made. The run
    of `apbmm confirm` sets it."""
    arguments: Table = Field(default_factory=dict)
    """Further arguments of the adapter, handed to EvalScope's `dataset_args` as they are
    (`few_shot_num`, say). For `apbmm_answer`: `question`, `answer`, `id` and `subset` name columns
    (as they are called here by default); `template` is what is asked, with `{question}` or other
    columns in braces, the bare question by default; one of `extract` (`boxed`, `last_number`,
    `letter` or `exact`, the whole text), `after` (the text whose last occurrence the answer
    follows) and `regex` (whose first group in the last match is the answer) is required; `compare`
    is `text`, `number` or `expression`, by default `number` for `last_number`, `expression` for
    `boxed` and `text` otherwise."""

    @field_validator("question_ids")
    @classmethod
    def _one_choice_of_questions(
        cls, chosen: tuple[int, ...] | None, info: ValidationInfo
    ) -> tuple[int, ...] | None:
        if chosen is not None:
            _refuse(cls._question_faults(chosen, info.data))
        return chosen

    @field_validator("sample")
    @classmethod
    def _first_or_random(cls, sample: int | None, info: ValidationInfo) -> int | None:
        if sample is not None and info.data.get("questions") is not None:
            raise ValueError("give either questions or sample, not both")
        return sample

    @field_validator("path")
    @classmethod
    def _at_least_one_file(cls, path: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not path:
            raise ValueError("names no file or folder")
        if isinstance(path, tuple) and len(set(path)) < len(path):
            raise ValueError("names a file twice, so its questions would count twice")
        return path

    @field_validator("arguments")
    @classmethod
    def _arguments_of_own_adapter(
        cls, arguments: dict[str, Any], info: ValidationInfo
    ) -> dict[str, Any]:
        if info.data.get("adapter") == ANSWER_ADAPTER:
            AnswerRule.of(arguments)
        return arguments

    @staticmethod
    def _question_faults(chosen: tuple[int, ...], others: Mapping[str, Any]) -> Iterator[str]:
        for other in ("questions", "sample"):
            if others.get(other) is not None:
                yield f"give either {other} or question_ids, not both"
        if len(set(chosen)) != len(chosen):
            yield "names a question twice"


LATER_BENCHMARK_KEYS: Mapping[str, Any] = {
    "sample": None,
    "holdout": 0.0,
    "held_out": False,
    "repeats": 1,
    "asked_before": 0,
}
"""Keys that came after the first version, with the values that leave a run's hash as it was."""
LATER_KEYS: Mapping[str, Mapping[str, Any]] = {
    "merge": {
        "combine": "simplex",
        "parameters": {},
        "vocabulary": "same",
        "borders": [],
        "filters": [],
        "experts_apart": False,
    },
    "engine": {"kind": "vllm", "batch_invariant": False},
    "generation": {"thought_end": "</think>"},
}
"""The same of other tables."""


Weight = Annotated[Number, Field(gt=0, le=1e6)]


def _as_weights(value: Any) -> Any:
    """A list of names as a table in which each has the weight 1."""
    match value:
        case list() | tuple() if all(isinstance(name, str) for name in value):
            if len({*value}) < len(value):
                raise ValueError("names a benchmark twice: a table gives it a weight, { aime = 2 }")
            return dict.fromkeys(value, 1.0)
        case None | Mapping():
            return value
    raise ValueError("must be a list of names, or a table of their weights")


Weights = Annotated[
    dict[Name, Weight] | None,
    BeforeValidator(
        _as_weights, json_schema_input_type=tuple[Name, ...] | dict[Name, Weight] | None
    ),
]


class ObjectiveSection(Section):
    """One objective: a metric averaged over benchmarks, and which values of it score 0 and 1.

    A run has two to five of these tables. Values between and beyond are scaled in proportion, and
    all objectives are maximised. Each table has one of `expert` with `vanilla` (Eq. 2), `scale`,
    and `target`. Without any table, a run of two sources searches the paper's two objectives:
    `reasoning` (`accuracy`, expert `thinking`, or the first source where none is called so) and
    `cost` (`tokens`, expert `instruct`, or the anchor).
    """

    name: Name
    """Name of the objective wherever results are shown."""
    metric: Annotated[str, Field(min_length=1, max_length=LONGEST_METRIC_NAME)]
    """The number that is measured on each question and averaged; see below."""
    expert: SourceName | None = None
    """The source that scores 1 on each benchmark: the one that is good at it."""
    vanilla: SourceName | None = None
    """The source that scores 0 on each benchmark. Not the same as `expert`."""
    benchmarks: Weights = None
    """The benchmarks that are averaged: a list of their names, or a table of their weights in the
    mean, as in `{ aime = 2, gsm8k = 1 }`. Without it all are, with equal weights."""
    scale: tuple[Number, Number] | None = None
    """The values of the metric that score 0 and 1, in its own units: `[0.2, 0.9]` of accuracy,
    `[4000, 500]` of tokens. Set it where no pair of sources differs enough to scale by."""
    target: Number | None = None
    """The value of the metric that scores 1, as a mean over the benchmarks; the source that is
    worst at it scores 0. Values beyond the target score more than 1."""
    direction: Literal["maximise", "minimise"] | None = None
    """Whether more or less of the metric is better. Without it the metric's own direction holds; of
    a score of EvalScope's more is better."""

    @field_validator("vanilla")
    @classmethod
    def _two_references(cls, vanilla: str | None, info: ValidationInfo) -> str | None:
        if vanilla is not None and vanilla == info.data.get("expert"):
            raise ValueError("expert and vanilla are the same source, so Eq. 2 divides by zero")
        return vanilla

    @field_validator("scale")
    @classmethod
    def _two_values(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        if scale is not None and scale[0] == scale[1]:
            raise ValueError("both values are the same, so nothing can be scaled by them")
        return scale

    @field_validator("scale", "target")
    @classmethod
    def _values_that_results_have(
        cls, given: tuple[float, float] | float | None, info: ValidationInfo
    ) -> tuple[float, float] | float | None:
        if given is not None and "metric" in info.data:
            described = metric(info.data["metric"])
            values = given if isinstance(given, tuple) else (given,)
            faults = ((value, described.fault_of(value)) for value in values)
            _refuse(f"no result has {value:g}: {fault}" for value, fault in faults if fault)
        return given

    @field_validator("direction")
    @classmethod
    def _one_way_to_scale(cls, direction: str | None, info: ValidationInfo) -> str | None:
        _refuse(cls._scaling_faults(direction, info.data))
        return direction

    @staticmethod
    def _scaling_faults(direction: str | None, others: Mapping[str, Any]) -> Iterator[str]:
        keys = ("expert", "vanilla", "scale", "target")
        if not {*keys, "metric"} <= others.keys():
            return  # one of them is at fault already
        given = [key for key in keys if others[key] is not None]
        if given not in (["expert", "vanilla"], ["scale"], ["target"]):
            yield (
                "what scores 0 and 1 is said by expert and vanilla, or by scale, or by target: "
                f"there is {', '.join(given) or 'none of them'}"
            )
        elif others["scale"] is not None:
            low, high = others["scale"]
            named = "higher" if direction == "maximise" else "lower"
            better = named if direction else metric(others["metric"]).better
            if (low < high) is not (better == "higher"):
                yield (
                    f"scale = [{low:g}, {high:g}] rewards {'more' if low < high else 'less'} "
                    f"{others['metric']}, of which {'less' if low < high else 'more'} is better: "
                    f"write [{high:g}, {low:g}]" + ("" if direction else ", or name the direction")
                )

    @property
    def better(self) -> Better:
        """Whether higher or lower values of the metric are better."""
        if self.direction is not None:
            return "higher" if self.direction == "maximise" else "lower"
        return metric(self.metric).better

    def faults_of_sources(self, sources: tuple[str, ...]) -> Iterator[str]:
        """What is wrong with its references in a run of these sources."""
        for key, name in (("expert", self.expert), ("vanilla", self.vanilla)):
            for fault in () if name is None else _unknown_source(key, name, sources):
                yield f"objective {self.name}: {fault}"


def paper_objectives(first: str, anchor: str) -> tuple[ObjectiveSection, ObjectiveSection]:
    """The paper's objectives: of two sources the first is good at the task, the anchor is cheap."""
    return (
        ObjectiveSection(name="reasoning", metric="accuracy", expert=first, vanilla=anchor),
        ObjectiveSection(name="cost", metric="tokens", expert=anchor, vanilla=first),
    )


PAPER_OBJECTIVES = paper_objectives(*PAPER_SOURCES)


Limits = Annotated[
    dict[str, Number], BeforeValidator(flattened, json_schema_input_type=dict[str, Any])
]


class PriorSection(Section):
    """How the layers' importance is measured (Eq. 5-14): once, by one worker, before the search.

    Methods that take no importance ignore this table.
    """

    prompts: OptionalPath = None
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
    parameter_share: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """Weight of the parameter discrepancy in the importance (Eq. 11); the rest is the weight of the
    activation discrepancy."""


class AlgorithmSection(Section):
    """The search method, and settings of its own."""

    name: Name = "ap-bmm-plus"
    """Name of the search method."""
    batch: Positive = 4
    """Vectors in one batch of a synchronous method, which waits for a whole batch before it
    proposes the next. Set it to the number of workers. Asynchronous methods ignore it."""
    settings: Table = Field(default_factory=dict)
    """Settings of the search method, by name. Those of each method are listed with it."""


EVALUATIONS_BY_DEFAULT = 40


class BudgetSection(Section):
    """When the search ends: when the first of the limits that are given is reached.

    The limits are `evaluations`, `gpu_hours` and `generated_tokens`. Each may be raised when a run
    is resumed, or lowered to what is spent. A merge is begun only while what is spent, and what the
    merges in progress are expected to cost, is below every limit. Those in progress are finished
    and counted, so a limit may be passed by as much as they cost.
    """

    evaluations: Positive | None = None
    """Merges whose evaluation is completed. The references do not count. 40 where no limit is
    given."""
    gpu_hours: Annotated[Number, Field(gt=0), Unit("hours")] | None = None
    """Hours that workers hold leases, times the cards of each worker; a CPU worker counts as one
    card. Everything leased counts: merges, references, the measurement of the layers, and attempts
    that fail or are lost. Time in which a worker waits for work does not count, nor does a report
    that is made beside the next merge. Time without a master, which is that from its last event to
    the first event of the next one, counts as far as a result says that its worker went on."""
    generated_tokens: Annotated[Positive, Unit("tokens")] | None = None
    """Tokens of all answers in the results of merges and references. Answers of attempts without
    a result are not known, and do not count."""
    initial: Positive = 8
    """How many evaluations are the initial design, before the first proposal of a model. At most
    `evaluations`."""
    patience: Positive | None = None
    """Ends the run when the hypervolume has stopped growing: when it has grown by no more than
    `patience_growth` while merges were evaluated that cost as much as so many average ones. An
    expensive merge counts as more than one, a cheap one as less, by the time of its worker.
    The initial design does not count. A merge that was stopped counts at what it has cost. It may
    be changed when a run is resumed."""
    patience_growth: Annotated[Number, Field(ge=0, lt=1)] = 0.01
    """Share of the hypervolume by which it must grow. It may be changed when a run is resumed."""
    failures: Natural = 10
    """How many vectors may fail for good before the run ends as failed. It may be changed when a
    run is resumed."""
    any_references: bool = False
    """Searches even if most answers of a reference are cut off or malformed, or accuracy cannot
    tell the references apart on any benchmark. Without it such a run ends before the search. It may
    be changed when a run is resumed."""

    @model_validator(mode="before")
    @classmethod
    def _at_least_one_limit(cls, table: Any) -> Any:
        limits = ("evaluations", "gpu_hours", "generated_tokens")
        if isinstance(table, dict) and all(table.get(limit) is None for limit in limits):
            return {**table, "evaluations": EVALUATIONS_BY_DEFAULT}
        return table

    @field_validator("initial")
    @classmethod
    def _within_the_budget(cls, initial: int, info: ValidationInfo) -> int:
        evaluations = info.data.get("evaluations")
        if evaluations is not None and initial > evaluations:
            raise ValueError(f"initial ({initial}) is larger than evaluations ({evaluations})")
        return initial


class StepsSection(Section):
    """Measures merges in steps: each answers a part of the questions, and the promising ones all.

    All merges are asked in one order, of which each prefix has its part of every benchmark. After
    the first step of that order a merge pauses, and its objectives are estimated from its answers
    and those of other merges; the search is told the estimates with their variances. When the rest
    of the budget is about what the front of all estimates takes to be completed, paused merges go
    on with what they have answered, the most promising first. Front, hypervolume and exports hold
    only merges that answered everything. The references answer everything at once.

    It needs two objectives, of accuracy and tokens, constraints of these two metrics alone, and a
    method that takes variances. All keys may be changed when a run is resumed.
    """

    enabled: bool = False
    """Whether merges are measured in steps. A saving is not shown, neither simulated nor on real
    merges (see the page on benchmarks), so that it has to be asked for."""
    first: Annotated[Number, Field(gt=0, lt=1)] = 0.3
    """Share of the questions of the first step."""
    answered: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """The first step ends when so much of it is answered. With less than 1 longer answers are cut
    there, and a merge that goes on continues them where they were cut. An engine then waits for no
    last answer, but where long answers are right more often than short ones, or less often,
    estimates of accuracy are off by more than their intervals say."""
    audits: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """Share of the paused merges, drawn at random, that go on at once all the same. They show how
    good the estimates are."""
    kept: Annotated[Number, Field(gt=0, le=10)] = 0.7
    """What of the budget is kept for the end: this many times what the front of all estimates is
    expected to take. Less begins more merges, more completes more of them."""
    front: Positive | None = None
    """Complete paused merges at the end only until so many are on the front that no estimate beats:
    as many as you would look at. They are chosen by the hypervolume that each adds to the others,
    for its cost. By default all go on that make the hypervolume grow and that the budget allows."""
    stop_beaten: bool = False
    """Whether a merge is stopped as soon as a measured merge beats whatever it still answers: one
    that is as accurate as if all open questions were answered right, with no more tokens than
    have been generated. At temperature 0 such a merge is never on the front. One that breaks a
    constraint whatever it still answers is stopped too, once a merge is measured that breaks none.
    What is stopped counts towards the budget with what it has answered, and the search is told its
    estimate. It goes without `enabled`, and has the same needs. Answers then begin in a random
    order; else the longest begin first, which saves more time where a search proposes well."""

    @property
    def in_part(self) -> bool:
        """Whether merges may be measured in part."""
        return self.enabled or self.stop_beaten


STEPPED_METRICS = frozenset({"accuracy", "tokens"})
"""The metrics whose means are estimated from part of the answers."""
STEPPED_OBJECTIVES = 2
"""The expected gain in hypervolume by a paused merge is known for so many objectives."""


class ConfirmSection(Section):
    """What the front is measured on once more, by `apbmm confirm`: not what the search asked.

    The best of many noisy measurements look better than they are, so a front is judged by questions
    that took no part in its choice. Further benchmarks are given in `[[confirm.benchmarks]]`
    tables, with the keys of `[[benchmarks]]`; they may be added when a run is over.
    """

    holdout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of each benchmark's questions that is kept out of the search, 0.3 say: drawn at random
    with the seed of `[generation]`, each subset or level of the data by its share. It cannot be
    changed once a run has begun."""
    benchmarks: tuple[BenchmarkSection, ...] = ()
    """Further benchmarks that are asked."""
    repeats: Annotated[Positive, Field(le=MOST_REPEATS)] | None = None
    """How often each question is asked, as `repeats` of `[[benchmarks]]`, which it replaces here;
    `[[confirm.benchmarks]]` may say otherwise. Where nothing is kept out of the search and no other
    benchmark is named, the search's own questions are asked so many times with draws that the
    search has not made."""
    at_end: bool = False
    """The master confirms the front by itself when the search is over."""

    @model_validator(mode="before")
    @classmethod
    def _repeats_of_every_benchmark(cls, table: Any) -> Any:
        """Give ``repeats`` to the benchmarks that name none of their own."""
        match table:
            case {"repeats": int() as repeats, "benchmarks": list() | tuple() as benchmarks} if (
                1 <= repeats <= MOST_REPEATS  # another value is a fault of [confirm] alone
            ):
                return {**table, "benchmarks": _with_default(benchmarks, "repeats", repeats)}
        return table


class EngineSection(Section):
    """The engine that stays resident on each worker and evaluates one merge after the other."""

    kind: Name = "vllm"
    """Name of the engine. There is one, `vllm`; workers and `apbmm check` refuse any other."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype that the engine computes in. `auto` is the one that the merge's config.json names."""
    gpu_memory_utilization: Annotated[Number, Field(gt=0, le=1)] = 0.9
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
    batch_invariant: bool = False
    """Answers do not depend on what else the engine computes at the same time. Without it, rounding
    differs between batches: an evaluation that goes on from kept answers may then answer some
    questions otherwise than a whole one would have. It switches vLLM's batch invariance on, which
    is slower and needs GPUs: workers on a CPU refuse the run."""
    arguments: dict[str, EngineValue] = Field(default_factory=dict)
    """vLLM's own engine arguments, by name (`max_num_seqs = 64`, say). Arguments that other keys
    decide, and arguments that name code, files or hosts, are refused. `apbmm-worker --engine-arg`
    sets one for a single worker, over these."""

    @field_validator("arguments")
    @classmethod
    def _only_what_a_run_file_may_set(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        _refuse(forbidden_arguments(arguments))
        return arguments


class EvaluationSection(Section):
    """Whether models are evaluated, or measurements invented to try a cluster out."""

    kind: Literal["vllm", "rehearsal"] = "vllm"
    """`vllm` evaluates models, with the engine that `engine.kind` names. `rehearsal` invents
    measurements on a synthetic landscape, with workers started by `--gpu rehearsal`, and reads
    neither checkpoints nor benchmarks."""
    layers: Layers | None = None
    """Number of layers of a rehearsal's invented models. Required for a rehearsal, unused
    otherwise."""
    rehearsal_seconds: Annotated[Number, Field(ge=0), Unit("seconds")] = 1.0
    """How long a rehearsal's evaluation of the thinking model takes, on average; merges with fewer
    tokens take less."""

    @field_validator("layers")
    @classmethod
    def _rehearsal_needs_layers(cls, layers: int | None, info: ValidationInfo) -> int | None:
        if layers is None and info.data.get("kind") == "rehearsal":
            raise ValueError("a rehearsal has no checkpoints to count layers in: set layers")
        return layers


class TrackSection(Section):
    """A tracker of experiments that every evaluation is sent to.

    A process beside the master sends it, after the journal: a tracker that fails or hangs costs the
    run nothing, and gets the rest later. All keys may be changed when a run is resumed.
    """

    tracker: Literal["trackio", "wandb", "mlflow"] | None = None
    """Which tracker: Trackio, Weights & Biases or MLflow. Its package has to be installed beside
    apbmm's (`pip install 'apbmm[mlflow]'`, say). Without this key nothing is sent. Keys and tokens
    are taken from the variables of the environment that the tracker knows."""
    project: Name = "apbmm"
    """The project, or MLflow's experiment, that the run is part of."""
    address: str = ""
    """Where the tracker is: MLflow's tracking URI, the URL of a W&B server, the URL of a Trackio
    server or the id of a Space. Without it the tracker's own settings hold, and a local store where
    there are none."""


Happening = Literal["end", "failure", "front"]


class NotifySection(Section):
    """Who is told when the run is over or fails.

    A process beside the master tells it; a command or webhook that fails costs the run nothing. All
    keys may be changed when a run is resumed.
    """

    command: tuple[str, ...] = ()
    """Program and arguments, run on the master's host in the run directory, by no shell. The notice
    is a JSON object on its standard input; `APBMM_NOTICE` has what happened, `APBMM_TEXT` a line
    that says it."""
    webhook: str = ""
    """URL that the notice is posted to, as a JSON object whose `text` and `content` are that line.
    `$VARIABLES` are replaced by the master's environment when a notice is sent, so that a URL that
    is a secret need not be written here."""
    on: tuple[Happening, ...] = ("end", "failure")
    """What is told: `end` of the run; `failure` of the run, and of its master by an error or a
    kill; `front`, a merge that is new on the front."""

    @field_validator("command")
    @classmethod
    def _names_a_program(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if command and not command[0].strip():
            raise ValueError("the first text is to name a program")
        return command

    @field_validator("webhook")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://", "$")):
            raise ValueError(f"{url!r} is no URL: it begins with neither http:// nor https://")
        return url


class TimingsSection(Section):
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

    @field_validator("suspect", "unreachable")
    @classmethod
    def _in_order(cls, seconds: float, info: ValidationInfo) -> float:
        before = {"suspect": "beat", "unreachable": "suspect"}[info.field_name or ""]
        if seconds <= info.data.get(before, 0.0):
            raise ValueError(
                f"expected beat < suspect < unreachable, but {before} is {info.data[before]:g}"
            )
        return seconds


class RunSpec(Section):
    """A whole run. Travels to the workers in WELCOME."""

    name: Name
    """Name of the run, which its id in messages begins with. Without `--run-dir` the run directory
    is `runs/NAME`."""
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    """Seed of the search: of its initial design and its proposals, and of the random merge methods.
    Runs with another seed are repetitions of an experiment."""
    sources: SourcesSection
    benchmarks: tuple[BenchmarkSection, ...]
    adapters: OptionalPath = None
    """Python file that registers benchmark adapters of one's own with EvalScope, by the names that
    `adapter` then has. It is run only by workers that were started with `--allow-remote-code`;
    other workers take no part. A changed file makes other evaluations."""
    generation: GenerationSection
    objectives: tuple[ObjectiveSection, ...] = PAPER_OBJECTIVES
    reference_point: tuple[Number, ...] | None = None
    """Point above which the hypervolume is measured: one number for each objective, in their order.
    Without it -0.2 each. Hypervolumes of runs with different points cannot be compared."""
    at_least: Limits = Field(default_factory=dict)
    """Constraints: merges below one of these values are no members of the front, and the search
    learns where they are. `{ chat_format = 0.98 }` is of the accuracy on that benchmark,
    `{ chat_format.f1 = 0.9 }` of another of its scores, and the name of a metric alone of its mean
    over all benchmarks. What counts is what was measured; chance is not allowed for."""
    at_most: Limits = Field(default_factory=dict)
    """The same with values above which merges are no members: `{ tokens = 2000 }`."""
    merge: MergeSection = MergeSection()
    prior: PriorSection = PriorSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    budget: BudgetSection = BudgetSection()
    steps: StepsSection = StepsSection()
    confirm: ConfirmSection = ConfirmSection()
    engine: EngineSection = EngineSection()
    evaluation: EvaluationSection = EvaluationSection()
    track: TrackSection = TrackSection()
    notify: NotifySection = NotifySection()
    timings: TimingsSection = TimingsSection()

    @model_validator(mode="before")
    @classmethod
    def _holdout_of_every_benchmark(cls, table: Any) -> Any:
        """Give ``confirm.holdout`` to the benchmarks that name none of their own."""
        match table:
            case {"confirm": {"holdout": share}, "benchmarks": list() | tuple() as benchmarks} if (
                _is_share(share)  # another value is a fault of [confirm] alone
            ):
                return {**table, "benchmarks": _with_default(benchmarks, "holdout", share)}
        return table

    @model_validator(mode="before")
    @classmethod
    def _defaults_by_the_sources(cls, table: Any) -> Any:
        """Give a run whose sources have other names than the paper's what it does not say."""
        try:
            sources = SourcesSection.model_validate(table["sources"])
        except (LookupError, TypeError, ValueError):  # a fault of its own
            return table
        if PAPER_SOURCES[0] not in sources.names and isinstance(table.get("generation"), Mapping):
            table = {
                **table,
                "generation": {"template_from": sources.names[0], **table["generation"]},
            }
        if len(sources.names) == LEAST_SOURCES and "objectives" not in table:
            table = {**table, "objectives": paper_objectives(*sources.names)}
        return table

    @field_validator("benchmarks")
    @classmethod
    def _benchmarks_differ(
        cls, benchmarks: tuple[BenchmarkSection, ...], info: ValidationInfo
    ) -> tuple[BenchmarkSection, ...]:
        names = [benchmark.name for benchmark in benchmarks]
        _refuse(cls._benchmark_faults(names, _source_names(info)))
        return benchmarks

    @classmethod
    def _benchmark_faults(cls, names: list[str], sources: tuple[str, ...]) -> Iterator[str]:
        if not names:
            yield "a run needs at least one"
        if len(set(names)) != len(names):
            yield f"two benchmarks have the same name: {names}"
        for taken in sorted({*names} & {*path_names(cls), *sources}):
            yield f"a benchmark cannot be called {taken}: that names another path"

    @field_validator("generation")
    @classmethod
    def _repeats_differ(
        cls, generation: GenerationSection, info: ValidationInfo
    ) -> GenerationSection:
        _refuse(_repeat_faults(info.data.get("benchmarks", ()), generation))
        return generation

    @field_validator("steps")
    @classmethod
    def _can_be_estimated(cls, steps: StepsSection, info: ValidationInfo) -> StepsSection:
        if steps.in_part:
            whole = "benchmarks" in info.data  # else their own fault is told
            limits = {side: info.data.get(side, {}) if whole else {} for side in SIGNS}
            names = [benchmark.name for benchmark in info.data.get("benchmarks", ())]
            constraints = constraints_of(limits, names)
            _refuse(_step_faults(info.data.get("objectives", ()), constraints))
        return steps

    @field_validator("generation")
    @classmethod
    def _template_of_a_source(
        cls, generation: GenerationSection, info: ValidationInfo
    ) -> GenerationSection:
        _refuse(_unknown_source("template_from", generation.template_from, _source_names(info)))
        return generation

    @field_validator("merge")
    @classmethod
    def _follows_a_source(cls, merge: MergeSection, info: ValidationInfo) -> MergeSection:
        if merge.outside_layers not in ("mean", "own"):
            names = _source_names(info)
            _refuse(_unknown_source("outside_layers", merge.outside_layers, names, "mean, own"))
        return merge

    @field_validator("merge")
    @classmethod
    def _has_a_base_of_its_own(cls, merge: MergeSection, info: ValidationInfo) -> MergeSection:
        sources = info.data.get("sources")
        if merge.combine == "task_arithmetic" and sources is not None:
            _refuse(_base_faults(sources))
        return merge

    @field_validator("confirm")
    @classmethod
    def _confirming_repeats_differ(
        cls, confirm: ConfirmSection, info: ValidationInfo
    ) -> ConfirmSection:
        if "generation" in info.data:
            generation = info.data["generation"]
            _refuse(_repeat_faults(confirm.benchmarks, generation, confirm.repeats or 1))
        return confirm

    @field_validator("confirm")
    @classmethod
    def _confirmed_on_others(cls, confirm: ConfirmSection, info: ValidationInfo) -> ConfirmSection:
        names = [b.name for b in (*info.data.get("benchmarks", ()), *confirm.benchmarks)]
        _refuse(cls._benchmark_faults(names or ["none"], _source_names(info)))
        return confirm

    @field_validator("objectives")
    @classmethod
    def _objectives_fit(
        cls, objectives: tuple[ObjectiveSection, ...], info: ValidationInfo
    ) -> tuple[ObjectiveSection, ...]:
        sources = _source_names(info)
        if objectives == PAPER_OBJECTIVES and sources and not {*PAPER_SOURCES} <= {*sources}:
            raise ValueError(
                f"nothing says which of {', '.join(sources)} is good at what: add [[objectives]] "
                "tables, each with an expert and a vanilla source, or with a scale"
            )
        _refuse(cls._objective_faults(objectives, info.data.get("benchmarks"), sources))
        return objectives

    @staticmethod
    def _objective_faults(
        objectives: tuple[ObjectiveSection, ...],
        benchmarks: tuple[BenchmarkSection, ...] | None,
        sources: tuple[str, ...],
    ) -> Iterator[str]:
        names = [objective.name for objective in objectives]
        if len(set(names)) != len(names):
            yield f"two objectives have the same name: {names}"
        if not 2 <= len(names) <= 5:
            yield f"between 2 and 5 objectives, not {len(names)}"
        for objective in objectives:
            yield from objective.faults_of_sources(sources)
        if benchmarks is None:
            return
        known = {benchmark.name for benchmark in benchmarks}
        for objective in objectives:
            if objective.benchmarks == {}:
                yield f"objective {objective.name} names no benchmarks; without the key it has all"
            if unknown := sorted(set(objective.benchmarks or ()) - known):
                yield f"objective {objective.name} names unknown benchmarks {unknown}"
            for benchmark in benchmarks:
                used = objective.benchmarks is None or benchmark.name in objective.benchmarks
                if used and not may_report(benchmark.adapter, objective.metric):
                    yield (
                        f"objective {objective.name}: benchmark {benchmark.name} reports no "
                        f"{objective.metric}, only {', '.join(METRICS)}"
                    )

    @field_validator("reference_point")
    @classmethod
    def _one_number_for_each_objective(
        cls, point: tuple[float, ...] | None, info: ValidationInfo
    ) -> tuple[float, ...] | None:
        objectives = info.data.get("objectives")
        if point is not None and objectives is not None and len(point) != len(objectives):
            raise ValueError(f"{len(point)} numbers for {len(objectives)} objectives")
        return point

    @field_validator("at_least", "at_most")
    @classmethod
    def _limits_of_what_is_measured(
        cls, limits: dict[str, float], info: ValidationInfo
    ) -> dict[str, float]:
        benchmarks: tuple[BenchmarkSection, ...] | None = info.data.get("benchmarks")
        if benchmarks:
            side: Side = "at_least" if info.field_name == "at_least" else "at_most"
            _refuse(_limit_faults(side, limits, benchmarks, info.data.get("at_least", {})))
        return limits

    @field_validator("algorithm")
    @classmethod
    def _fits_the_merge(cls, algorithm: AlgorithmSection, info: ValidationInfo) -> AlgorithmSection:
        if "merge" in info.data:
            _refuse(_merge_faults(info.data["merge"], algorithm.name))
        return algorithm

    @field_validator("evaluation")
    @classmethod
    def _rehearsal_has_enough_layers(
        cls, evaluation: EvaluationSection, info: ValidationInfo
    ) -> EvaluationSection:
        layers = evaluation.layers
        if evaluation.kind == "rehearsal" and layers is not None and "merge" in info.data:
            try:
                info.data["merge"].block_of(layers)
            except RunFileError as error:
                raise ValueError(error.message) from None
        return evaluation

    @property
    def merge_method(self) -> str:
        """How sources are merged: ``linear``, or the method whose grid is searched."""
        method = searched_as(self.algorithm.name)
        return LINEAR if method is None else method.name

    @property
    def hypervolume_reference(self) -> tuple[float, ...]:
        """Reference point of the hypervolume; -0.2 each unless the run file says otherwise."""
        return self.reference_point or (-0.2,) * len(self.objectives)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What every member of the front is within."""
        names = [benchmark.name for benchmark in self.benchmarks]
        return constraints_of({"at_least": self.at_least, "at_most": self.at_most}, names)

    def named_paths(self) -> dict[str, str | tuple[str, ...] | None]:
        """Every path of the run by its name, or the paths of a list; None for an optional one that
        is left out."""
        paths: dict[str, str | tuple[str, ...] | None] = {}
        for found in paths_in(self.model_dump(mode="json")):
            earlier = paths.get(found.name, ())
            if isinstance(found.key, int) and isinstance(earlier, tuple):  # one of a list
                paths[found.name] = (*earlier, str(found.path))
            else:
                paths[found.name] = found.path
        return paths

    def without_paths(self) -> dict[str, Any]:
        """The run as JSON values without its paths: what does not depend on the host.

        Of the sources the names are left, in the order of their weights.
        """
        table = self.model_dump(mode="json")
        for found in reversed(list(paths_in(table))):
            del found.table[found.key]
        for benchmark in (*table["benchmarks"], *table["confirm"]["benchmarks"]):
            benchmark.pop("path", None)  # what is left of a list of files
        table["sources"] = ", ".join(self.sources.names)
        return table

    def for_workers(self) -> dict[str, Any]:
        """The run as JSON values, without what only its master needs to know."""
        return self.model_dump(mode="json", exclude={"track", "notify"})

    def config_hash(self, digests: Mapping[str, str]) -> str:
        """SHA-256 of all that decides what an evaluation measures.

        ``digests`` identify the contents of the sources, which therefore count instead of their
        paths: the same checkpoints elsewhere give the same measurement.
        """
        whole = self.without_paths()
        parts = ("benchmarks", "generation", "merge", "engine", "evaluation")
        config = {part: whole[part] for part in parts} | {"method": self.merge_method}
        # Runs that were begun before these keys were there keep their hash.
        if config["merge"]["grain"] == implied_grain(config["merge"]):
            del config["merge"]["grain"]
        if self.sources.names != PAPER_SOURCES:
            config["sources"] = whole["sources"]
        tables = [(config[part], later) for part, later in LATER_KEYS.items()]
        tables += [(benchmark, LATER_BENCHMARK_KEYS) for benchmark in config["benchmarks"]]
        for table, later in tables:
            for key, default in later.items():
                if table[key] == default:
                    del table[key]
        return canonical_hash({**config, "digests": dict(digests)})


def _source_names(info: ValidationInfo) -> tuple[str, ...]:
    """The names of a run's sources; empty where they are not valid, which is a fault of its own."""
    sources = info.data.get("sources")
    return () if sources is None else sources.names


def _base_faults(sources: SourcesSection) -> Iterator[str]:
    """Why task vectors cannot be taken from the base of these sources."""
    if sources.base is None:
        yield "combine: task_arithmetic adds to a base: name it as base in [sources]"
    for name, folder in sources.folders.items():
        if folder == sources.base and name not in sources.lora_adapters:
            yield f"combine: {name} is the base itself, so it has no task vector"


def _unknown_source(
    key: str, name: str, sources: tuple[str, ...], others: str = ""
) -> Iterator[str]:
    """A fault where ``name`` is none of the sources; ``others`` are other values of the key."""
    if sources and name not in sources:
        known = ", ".join(filter(None, (others, *sources)))
        yield f"{key}: no source is called {name}: must be one of {known}"


def _with_default(tables: Iterable[Any], key: str, value: Any) -> list[Any]:
    """Tables in which those that lack a key have it."""
    return [{key: value, **table} if isinstance(table, dict) else table for table in tables]


def _is_share(value: Any) -> bool:
    try:
        return 0 <= float(value) < 1
    except (TypeError, ValueError):
        return False


def _repeat_faults(
    benchmarks: Iterable[BenchmarkSection], generation: GenerationSection, others: int = 1
) -> Iterator[str]:
    """What repeats the decoding leaves without effect; ``others`` are those of `[confirm]`."""
    if generation.temperature > 0.0:
        return
    asked = [(f"benchmark {b.name}", b.repeats) for b in benchmarks]
    for where, repeats in (*asked, ("[confirm]", others)):
        if repeats > 1:
            yield (
                f"{where}: repeats = {repeats} draws {repeats} answers to each question, but at "
                "temperature 0 they would all be equal: raise generation.temperature, or leave "
                "repeats out"
            )


def may_report(adapter: str, metric: str) -> bool:
    """Whether results of an adapter may have a metric.

    Every result has the registered metrics, and apbmm's own adapters have no others. The scores of
    EvalScope's adapters are known only when it has reported on the references.
    """
    return metric in METRICS or not is_own_adapter(adapter)


def _limit_faults(
    side: Side,
    limits: Mapping[str, float],
    benchmarks: Sequence[BenchmarkSection],
    at_least: Mapping[str, float],
) -> Iterator[str]:
    """What is wrong with one table of constraints; ``at_least`` is the other one of `at_most`."""
    names = [benchmark.name for benchmark in benchmarks]
    yield from faults_of_limits(side, limits, names)
    adapters = {benchmark.name: benchmark.adapter for benchmark in benchmarks}
    for constraint in constraints_of({"at_least": {}, "at_most": {}, side: limits}, names):
        for name in constraint.benchmarks:
            known = constraint.metric != constraint.name or constraint.metric in METRICS
            if known and not may_report(adapters[name], constraint.metric):
                yield (
                    f"{constraint.name}: benchmark {name} reports no {constraint.metric}, only "
                    f"{', '.join(METRICS)}"
                )
        if side == "at_most" and at_least.get(constraint.name, -math.inf) > constraint.limit:
            yield (
                f"{constraint.name}: nothing is at least {at_least[constraint.name]:g} and at most "
                f"{constraint.limit:g}"
            )


def _step_faults(
    objectives: Sequence[ObjectiveSection], constraints: Sequence[Constraint]
) -> Iterator[str]:
    """Why merges cannot be measured in steps with valid objectives and constraints."""
    if objectives and len(objectives) != STEPPED_OBJECTIVES:
        yield f"steps need two objectives, not {len(objectives)}"
    estimated = " and ".join(sorted(STEPPED_METRICS))
    named = {f"objective {each.name}": each.metric for each in objectives}
    named |= {f"constraint {each.in_words}": each.metric for each in constraints}
    for name, wanted in named.items():
        if wanted not in STEPPED_METRICS:
            yield (
                f"{name} is of {wanted}, and only {estimated} are estimated from part of the "
                "answers"
            )


def _merge_faults(merge: MergeSection, algorithm: str) -> Iterator[str]:
    """What of a merge does not go with a search method."""
    method = searched_as(algorithm)
    if method is None:
        for name in merge.parameters:
            yield f"merge.parameters: {name} has no effect on a linear merge"
        return
    if merge.combine != "simplex":
        yield f"merge.combine has no effect on {algorithm}, which merges whole models"
    if merge.grain == "blocks":
        key = "borders" if merge.borders else "blocks"
        yield (
            f"merge.{key} cuts the layers into blocks, but {algorithm} gives all layers one weight"
        )
    elif merge.grain != "layer":
        yield f"merge.grain = {merge.grain} has no effect on {algorithm}, which merges whole models"
    if merge.outside_layers == "own":
        yield (
            "merge.outside_layers = own weighs what is outside the layers, but "
            f"{algorithm} gives all tensors one weight"
        )
    yield from (f"merge.parameters: {fault}" for fault in method.faults(merge.parameters))
    for parameter in method.searched:
        if parameter.name in merge.parameters:
            yield f"merge.parameters: {parameter.name} is searched by {algorithm}"


# ---- tables and paths within tables --------------------------------------------------------------


def section_of(info: FieldInfo) -> type[Section] | None:
    """The kind of table that a key holds, alone or in a list; None for any other key."""
    kind = info.annotation
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def path_mark(info: FieldInfo) -> HostPath | None:
    """The mark of a key that is a path; None for any other key."""
    return next((mark for mark in info.metadata if isinstance(mark, HostPath)), None)


@dataclass(frozen=True)
class FoundPath:
    """A path in plain tables or a list: ``table[key]``.

    ``place`` is its dotted key in the whole run file.
    """

    place: str
    name: str
    table: Any
    key: str | int

    @property
    def path(self) -> str | None:
        """The path; None where an optional one is left out."""
        path: str | None = self.table[self.key]
        return path


def paths_in(
    table: MutableMapping[str, Any], kind: type[Section] = RunSpec, prefix: str = ""
) -> Iterator[FoundPath]:
    """Every key of ``table`` and the tables in it that is marked as a path.

    The table need not be valid: what is not of the expected type is passed over.
    """
    for key, info in kind.model_fields.items():
        value, mark, section = table.get(key), path_mark(info), section_of(info)
        if mark is not None and key in table and isinstance(value, str | None):
            name = str(table.get(mark.named, "")) if mark.named else key
            yield FoundPath(prefix + key, name, table, key)
        elif mark is not None and isinstance(value, list) and _takes_list(info):
            name = str(table.get(mark.named, "")) if mark.named else key
            for index, item in enumerate(value):
                if isinstance(item, str):
                    yield FoundPath(f"{prefix}{key}.{index}", name, value, index)
        elif section is not None and isinstance(value, list | tuple):
            for index, item in enumerate(value):
                if isinstance(item, MutableMapping):
                    yield from paths_in(item, section, f"{prefix}{key}.{index}.")
        elif section is not None and isinstance(value, MutableMapping):
            yield from paths_in(value, section, f"{prefix}{key}.")
    yield from _other_paths(table, kind, prefix)


def _other_paths(
    table: MutableMapping[str, Any], kind: type[Section], prefix: str
) -> Iterator[FoundPath]:
    """The keys of the author's own choice, each of which names a path."""
    others = [key for key in table if key not in kind.model_fields] if kind.other_keys else []
    for key in others:
        value = table[key]
        if isinstance(value, str):
            yield FoundPath(prefix + key, key, table, key)
        elif isinstance(value, MutableMapping):
            for part, name in (("path", key), ("adapter", adapter_path_name(key))):
                if isinstance(value.get(part), str):
                    yield FoundPath(f"{prefix}{key}.{part}", name, value, part)


def adapter_path_name(source: str) -> str:
    """The name of the path of a source's adapter, by which a worker maps it."""
    return f"{source}.adapter"


def _takes_list(info: FieldInfo) -> bool:
    return any(get_origin(kind) is tuple for kind in get_args(info.annotation))


def path_names(kind: type[Section]) -> frozenset[str]:
    """Names that keys give to paths; other paths are named by the run file."""
    found: set[str] = set()
    for key, info in kind.model_fields.items():
        mark, section = path_mark(info), section_of(info)
        if mark is not None and not mark.named:
            found.add(key)
        elif section is not None:
            found |= path_names(section)
    return frozenset(found)
