"""RUN.toml: what a run is. Every fault is reported at once and unknown keys are refused.

The same models travel to the workers as the run spec (`RunSpec`), so that a worker needs no run
file of its own.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from apbmm_common.errors import RunFileError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
EngineValue = bool | int | float | str


class Section(BaseModel):
    """A table of the run file: frozen, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


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
    """How a vector becomes a checkpoint (Eq. 4), and what happens outside the layers."""

    outside_layers: Literal["mean", "thinking", "instruct"] = "mean"
    dtype: Literal["source", "float32", "bfloat16", "float16"] = "source"


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
    top_k: int = 20
    seed: int = 0

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> Self:
        if self.max_tokens >= self.context:
            raise ValueError(
                f"max_tokens ({self.max_tokens}) leaves no room for a prompt in a context of "
                f"{self.context}"
            )
        return self


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
    question_ids: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_choice_of_questions(self) -> Self:
        if self.questions is not None and self.question_ids is not None:
            raise ValueError("give either questions or question_ids, not both")
        if self.question_ids is not None and len(set(self.question_ids)) != len(self.question_ids):
            raise ValueError("question_ids names a question twice")
        return self


class Objective(Section):
    """One objective of Eq. 2: a metric averaged over benchmarks, scaled by two references."""

    name: Name
    metric: Literal["accuracy", "tokens"]
    expert: Literal["thinking", "instruct"]
    vanilla: Literal["thinking", "instruct"]
    benchmarks: tuple[Name, ...] | None = None

    @model_validator(mode="after")
    def _two_references(self) -> Self:
        if self.expert == self.vanilla:
            raise ValueError("expert and vanilla are the same source, so Eq. 2 divides by zero")
        return self


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

    name: Name = "ap-bmm"
    batch: Positive = 4
    """Vectors in one batch of a synchronous method; asynchronous methods ignore it."""
    settings: dict[str, Any] = Field(default_factory=dict)


class Budget(Section):
    """Completed evaluations (references are outside it), and how many may fail."""

    evaluations: Positive = 40
    initial: Positive = 8
    failures: Annotated[int, Field(ge=0)] = 10

    @model_validator(mode="after")
    def _initial_within(self) -> Self:
        if self.initial > self.evaluations:
            raise ValueError(
                f"initial ({self.initial}) is larger than evaluations ({self.evaluations})"
            )
        return self


class Engine(Section):
    """The resident vLLM; ``arguments`` go to vLLM's own engine arguments unchanged."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    hot_load: Literal["checkpoint"] = "checkpoint"
    arguments: dict[str, EngineValue] = Field(default_factory=dict)


class Evaluation(Section):
    """``vllm`` evaluates models; ``rehearsal`` a synthetic landscape, to try a cluster out."""

    kind: Literal["vllm", "rehearsal"] = "vllm"
    layers: Positive | None = None
    rehearsal_seconds: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _rehearsal_needs_layers(self) -> Self:
        if self.kind == "rehearsal" and self.layers is None:
            raise ValueError("a rehearsal has no checkpoints to count layers in: set layers")
        return self


class Timings(Section):
    """Timeouts of the protocol, in seconds; see `apbmm_master.lifecycle`."""

    beat: Seconds = 5.0
    suspect: Seconds = 20.0
    unreachable: Seconds = 60.0
    reconcile: Seconds = 120.0
    orphan_grace: Seconds = 900.0
    resend: Seconds = 5.0
    stall: Seconds = 1800.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.beat < self.suspect < self.unreachable:
            raise ValueError("expected beat < suspect < unreachable")
        return self


class RunSpec(Section):
    """A whole run. Travels to the workers in WELCOME."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    sources: Sources
    benchmarks: Annotated[tuple[Benchmark, ...], Field(min_length=1)]
    generation: Generation
    objectives: tuple[Objective, ...] = PAPER_OBJECTIVES
    reference_point: tuple[float, ...] | None = None
    merge: Merge = Merge()
    prior: Prior = Prior()
    algorithm: Algorithm = Algorithm()
    budget: Budget = Budget()
    engine: Engine = Engine()
    evaluation: Evaluation = Evaluation()
    timings: Timings = Timings()

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [b.name for b in self.benchmarks]
        if len(set(names)) != len(names):
            raise ValueError(f"two benchmarks have the same name: {names}")
        if not 1 <= len(self.objectives) <= 5:
            raise ValueError(f"between 1 and 5 objectives, not {len(self.objectives)}")
        for objective in self.objectives:
            unknown = set(objective.benchmarks or ()) - set(names)
            if unknown:
                raise ValueError(
                    f"objective {objective.name} names unknown benchmarks {sorted(unknown)}"
                )
        point = self.reference_point
        if point is not None and len(point) != len(self.objectives):
            raise ValueError(
                f"reference_point has {len(point)} numbers for {len(self.objectives)} objectives"
            )
        return self

    @property
    def hypervolume_reference(self) -> tuple[float, ...]:
        """Reference point of the hypervolume; -0.2 each unless the run file says otherwise."""
        return self.reference_point or (-0.2,) * len(self.objectives)

    def config_hash(self, digests: Mapping[str, str]) -> str:
        """SHA-256 of all that decides what an evaluation measures.

        ``digests`` identify the contents of the sources, which therefore count instead of their
        paths: the same checkpoints elsewhere give the same measurement.
        """
        whole = self.model_dump(mode="json")
        parts = ("benchmarks", "generation", "merge", "engine", "evaluation")
        config = {part: whole[part] for part in parts}
        for benchmark in config["benchmarks"]:
            del benchmark["path"]
        return canonical_hash({**config, "digests": dict(digests)})


def canonical_hash(value: object) -> str:
    """SHA-256 (hex) of a JSON value in canonical form: sorted keys, shortest round-trip floats."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def load_run_file(path: Path) -> RunSpec:
    """Read and validate RUN.toml; relative paths are taken from the file's own folder.

    Raises `RunFileError` naming every fault at once.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFileError(f"{path}: no such run file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunFileError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RunFileError(f"{path}: not valid TOML: {error}") from error
    return with_absolute_paths(parse_run(table, str(path)), path.resolve().parent)


def parse_run(table: dict[str, Any], origin: str) -> RunSpec:
    """Validate a parsed run file; ``origin`` names it in the error."""
    try:
        return RunSpec.model_validate(table)
    except ValidationError as error:
        faults = [
            f"  {'.'.join(str(part) for part in fault['loc']) or 'run file'}: {_reason(fault)}"
            for fault in error.errors()
        ]
        hint = "examples/ has complete run files"
        raise RunFileError("\n".join([f"{origin} is not a valid run file:", *faults]), hint) from None


def _reason(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown key"
    if fault["type"] == "missing":
        return "missing"
    return str(fault["msg"]).removeprefix("Value error, ")


def with_absolute_paths(run: RunSpec, folder: Path) -> RunSpec:
    """The same run with every relative path resolved against ``folder``."""

    def absolute(value: str) -> str:
        return str((folder / Path(value).expanduser()).resolve())

    sources = run.sources
    update = {
        "sources": sources.model_copy(
            update={
                key: absolute(value)
                for key, value in sources.model_dump(exclude_none=True).items()
            }
        ),
        "benchmarks": tuple(
            b.model_copy(update={"path": absolute(b.path)}) for b in run.benchmarks
        ),
    }
    if run.prior.prompts is not None:
        update["prior"] = run.prior.model_copy(update={"prompts": absolute(run.prior.prompts)})
    return run.model_copy(update=update)
