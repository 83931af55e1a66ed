"""What the tables of a run file refuse in each other: one line for each fault. Pure.

`RunSpec` asks for them, with those tables that are valid by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from apbmm_common.merge_methods import searched_as
from apbmm_common.metrics import METRICS
from apbmm_common.run_file.constraints import Constraint, Side, constraints_of, faults_of_limits
from apbmm_common.run_file.sections.benchmarks import BenchmarkSection, is_own_adapter
from apbmm_common.run_file.sections.generation import GenerationSection
from apbmm_common.run_file.sections.merge import MergeSection
from apbmm_common.run_file.sections.objectives import ObjectiveSection
from apbmm_common.run_file.sections.search import AlgorithmSection
from apbmm_common.run_file.sections.sources import SourcesSection

STEPPED_METRICS = frozenset({"accuracy", "tokens"})
"""The metrics whose means are estimated from part of the answers."""
STEPPED_OBJECTIVES = 2
"""The expected gain in hypervolume by a paused merge is known for so many objectives."""
STOPS_BEATEN = "ap-bmm-plus"
"""The method that stops beaten merges unless told otherwise; the papers' methods measure all."""


def unknown_source(
    key: str, name: str, sources: tuple[str, ...], others: str = ""
) -> Iterator[str]:
    """A fault where ``name`` is none of the sources; ``others`` are other values of the key."""
    if sources and name not in sources:
        known = ", ".join(filter(None, (others, *sources)))
        yield f"{key}: no source is called {name}: must be one of {known}"


def benchmark_faults(names: list[str], other_paths: Iterable[str]) -> Iterator[str]:
    """What is wrong with the names of a run's benchmarks, which name the paths of their data."""
    if not names:
        yield "a run needs at least one"
    if len(set(names)) != len(names):
        yield f"two benchmarks have the same name: {names}"
    for taken in sorted({*names} & {*other_paths}):
        yield f"a benchmark cannot be called {taken}: that names another path"


def repeat_faults(
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


def objective_faults(
    objectives: tuple[ObjectiveSection, ...],
    benchmarks: tuple[BenchmarkSection, ...] | None,
    sources: tuple[str, ...],
) -> Iterator[str]:
    """What is wrong with objectives in a run of these sources; ``benchmarks`` None: not valid."""
    names = [objective.name for objective in objectives]
    if len(set(names)) != len(names):
        yield f"two objectives have the same name: {names}"
    if not 2 <= len(names) <= 5:
        yield f"between 2 and 5 objectives, not {len(names)}"
    for objective in objectives:
        yield from _reference_faults(objective, sources)
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
            if used and not _may_report(benchmark.adapter, objective.metric):
                yield (
                    f"objective {objective.name}: benchmark {benchmark.name} reports no "
                    f"{objective.metric}, only {', '.join(METRICS)}"
                )


def _reference_faults(objective: ObjectiveSection, sources: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with an objective's references in a run of these sources."""
    for key, name in (("expert", objective.expert), ("vanilla", objective.vanilla)):
        for fault in () if name is None else unknown_source(key, name, sources):
            yield f"objective {objective.name}: {fault}"


def _may_report(adapter: str, metric: str) -> bool:
    """Whether results of an adapter may have a metric.

    Every result has the registered metrics, and apbmm's own adapters have no others. The scores of
    EvalScope's adapters are known only when it has reported on the references.
    """
    return metric in METRICS or not is_own_adapter(adapter)


def limit_faults(
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
            if known and not _may_report(adapters[name], constraint.metric):
                yield (
                    f"{constraint.name}: benchmark {name} reports no {constraint.metric}, only "
                    f"{', '.join(METRICS)}"
                )
        if side == "at_most" and at_least.get(constraint.name, -math.inf) > constraint.limit:
            yield (
                f"{constraint.name}: nothing is at least {at_least[constraint.name]:g} and at most "
                f"{constraint.limit:g}"
            )


def base_faults(sources: SourcesSection) -> Iterator[str]:
    """Why task vectors cannot be taken from the base of these sources."""
    if sources.base is None:
        yield "combine: task_arithmetic adds to a base: name it as base in [sources]"
    for name, folder in sources.folders.items():
        if folder == sources.base and name not in sources.lora_adapters:
            yield f"combine: {name} is the base itself, so it has no task vector"


def merge_faults(merge: MergeSection, algorithm: str) -> Iterator[str]:
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


def step_faults(
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


def stops_by_default(
    algorithm: AlgorithmSection | None, generation: GenerationSection | None
) -> bool:
    """Whether a run that can measure in part stops beaten merges; None: a table is not valid.

    At temperature 0 another evaluation of such a merge would be beaten as well.
    """
    if algorithm is None or generation is None:
        return False
    return algorithm.name == STOPS_BEATEN and generation.temperature == 0.0
