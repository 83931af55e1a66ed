"""A whole run file: its tables together, and what follows from all of them.

The same models travel to the workers in WELCOME, so that a worker needs no run file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.errors import RunFileError
from apbmm_common.merge_methods import LINEAR, searched_as
from apbmm_common.run_file.constraints import SIGNS, Constraint, Side, constraints_of, flattened
from apbmm_common.run_file.paths import path_names, paths_in
from apbmm_common.run_file.rules_between_tables import (
    base_faults,
    benchmark_faults,
    limit_faults,
    merge_faults,
    objective_faults,
    repeat_faults,
    step_faults,
    stops_by_default,
    unknown_source,
)
from apbmm_common.run_file.sections.benchmarks import BenchmarkSection, with_default
from apbmm_common.run_file.sections.budget import BudgetSection, StepsSection
from apbmm_common.run_file.sections.confirm import ConfirmSection
from apbmm_common.run_file.sections.engine import EngineSection, EvaluationSection
from apbmm_common.run_file.sections.generation import GenerationSection
from apbmm_common.run_file.sections.merge import MergeSection, implied_grain
from apbmm_common.run_file.sections.objectives import (
    PAPER_OBJECTIVES,
    ObjectiveSection,
    paper_objectives,
)
from apbmm_common.run_file.sections.reporting import NotifySection, TrackSection
from apbmm_common.run_file.sections.search import AlgorithmSection, PriorSection
from apbmm_common.run_file.sections.section import Name, Number, OptionalPath, Section, refuse
from apbmm_common.run_file.sections.sources import LEAST_SOURCES, PAPER_SOURCES, SourcesSection
from apbmm_common.run_file.sections.timings import TimingsSection

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

Limits = Annotated[
    dict[str, Number], BeforeValidator(flattened, json_schema_input_type=dict[str, Any])
]


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
    steps: Annotated[StepsSection, Field(validate_default=True)] = StepsSection()
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
                return {**table, "benchmarks": with_default(benchmarks, "holdout", share)}
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
        refuse(benchmark_faults(names, (*path_names(cls), *_source_names(info))))
        return benchmarks

    @field_validator("generation")
    @classmethod
    def _repeats_differ(
        cls, generation: GenerationSection, info: ValidationInfo
    ) -> GenerationSection:
        refuse(repeat_faults(info.data.get("benchmarks", ()), generation))
        return generation

    @field_validator("generation")
    @classmethod
    def _template_of_a_source(
        cls, generation: GenerationSection, info: ValidationInfo
    ) -> GenerationSection:
        refuse(unknown_source("template_from", generation.template_from, _source_names(info)))
        return generation

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
        refuse(objective_faults(objectives, info.data.get("benchmarks"), sources))
        return objectives

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
            refuse(limit_faults(side, limits, benchmarks, info.data.get("at_least", {})))
        return limits

    @field_validator("merge")
    @classmethod
    def _follows_a_source(cls, merge: MergeSection, info: ValidationInfo) -> MergeSection:
        if merge.outside_layers not in ("mean", "own"):
            names = _source_names(info)
            refuse(unknown_source("outside_layers", merge.outside_layers, names, "mean, own"))
        return merge

    @field_validator("merge")
    @classmethod
    def _has_a_base_of_its_own(cls, merge: MergeSection, info: ValidationInfo) -> MergeSection:
        sources = info.data.get("sources")
        if merge.combine == "task_arithmetic" and sources is not None:
            refuse(base_faults(sources))
        return merge

    @field_validator("algorithm")
    @classmethod
    def _fits_the_merge(cls, algorithm: AlgorithmSection, info: ValidationInfo) -> AlgorithmSection:
        if "merge" in info.data:
            refuse(merge_faults(info.data["merge"], algorithm.name))
        return algorithm

    @field_validator("steps")
    @classmethod
    def _can_be_estimated(cls, steps: StepsSection, info: ValidationInfo) -> StepsSection:
        whole = "benchmarks" in info.data  # else their own fault is told
        limits = {side: info.data.get(side, {}) if whole else {} for side in SIGNS}
        names = [benchmark.name for benchmark in info.data.get("benchmarks", ())]
        constraints = constraints_of(limits, names)
        faults = [*step_faults(info.data.get("objectives", ()), constraints)]
        if steps.in_part:
            refuse(faults)
        if steps.stop_beaten is None:
            method, generation = info.data.get("algorithm"), info.data.get("generation")
            return steps.stopping(not faults and stops_by_default(method, generation))
        return steps

    @field_validator("confirm")
    @classmethod
    def _confirming_repeats_differ(
        cls, confirm: ConfirmSection, info: ValidationInfo
    ) -> ConfirmSection:
        if "generation" in info.data:
            generation = info.data["generation"]
            refuse(repeat_faults(confirm.benchmarks, generation, confirm.repeats or 1))
        return confirm

    @field_validator("confirm")
    @classmethod
    def _confirmed_on_others(cls, confirm: ConfirmSection, info: ValidationInfo) -> ConfirmSection:
        names = [b.name for b in (*info.data.get("benchmarks", ()), *confirm.benchmarks)]
        others = (*path_names(cls), *_source_names(info))
        refuse(benchmark_faults(names or ["none"], others))
        return confirm

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
        for found in paths_in(self.model_dump(mode="json"), RunSpec):
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
        for found in reversed(list(paths_in(table, RunSpec))):
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


def _is_share(value: Any) -> bool:
    try:
        return 0 <= float(value) < 1
    except (TypeError, ValueError):
        return False
