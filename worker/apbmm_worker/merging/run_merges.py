"""The merge that a vector of a run stands for; pure, reads no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apbmm_common.checkpoint.headers import Checkpoint, layer_of
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.merge_methods import LINEAR
from apbmm_common.run_file import LEAST_SOURCES, MergeSection, RunSpec, Space
from apbmm_common.simplex import Row
from apbmm_worker.merging.plan import (
    ModelLevelMerge,
    TensorPlan,
    copied,
    plan_sum,
    plan_task_vectors,
)
from apbmm_worker.merging.source_weights import (
    SourceWeights,
    outside_rows,
    stick_breaking,
    with_tied_head,
)
from apbmm_worker.merging.sources import VerifiedSources


@dataclass(frozen=True, slots=True)
class RunMerge:
    """One merge: the plan of each tensor, and the recipe that is kept beside the weights."""

    plans: tuple[TensorPlan, ...]
    recipe: dict[str, Any]


def merge_of(
    spec: RunSpec, sources: VerifiedSources, vector: Sequence[float], *, reference: bool = False
) -> RunMerge:
    """The merge that a vector of the run's space stands for.

    A ``reference`` is one of the sources: its vector has the numbers of each layer, whatever the
    run searches (`reference_vector`). Random methods draw by the run's seed. Raises
    `EvaluationError` (``vector``) for a vector that is not of the space.
    """
    names = spec.sources.names
    merged = {name: sources.checkpoints[name] for name in names}
    if reference:
        # The whole source, outside the layers too: Eq. 2 measures all merges by the sources.
        rows = stick_breaking(vector, sources.layers, len(names))
        return _linear(MergeSection(dtype=spec.merge.dtype), sources, merged, rows, {})
    space = _space(spec, sources, len(vector))
    if space.method == LINEAR:
        rows, own = space.layer_rows(vector), space.outside_rows(vector)
        return _linear(spec.merge, sources, merged, rows, own)
    weight, searched = space.weight_and_parameters(vector)
    parameters = {**spec.merge.parameters, **searched}
    rule = ModelLevelMerge(space.method, weight, parameters, spec.seed)
    plans = plan_task_vectors(
        merged, sources.checkpoints[BASE_ROLE], rule, spec.merge.outside_layers, spec.merge.dtype
    )
    return RunMerge(plans, {"task_vectors": rule.recipe, "merge": _settings(spec.merge)})


def _linear(
    merge: MergeSection,
    sources: VerifiedSources,
    merged: Mapping[str, Checkpoint],
    rows: Sequence[Row],
    own: Mapping[str, Row],
) -> RunMerge:
    """The weighted sum of the sources ``merged`` by these weights of each layer, or of their task
    vectors.

    ``own``: those of groups outside the layers, if ``merge.outside_layers`` says so.
    """
    rule = with_tied_head(own) if merge.outside_layers == "own" else merge.outside_layers
    weights = SourceWeights(tuple(rows), outside_rows(rule, tuple(merged), rows))
    simplex = merge.combine == "simplex"
    found = _recipe(tuple(merged), rows, own, simplex=simplex)
    recipe: dict[str, Any] = {**found, "merge": _settings(merge)}
    if not simplex:
        with_base = {BASE_ROLE: sources.checkpoints[BASE_ROLE], **merged}
        return RunMerge(plan_sum(with_base, weights.against_base(), merge.dtype), recipe)
    plans = plan_sum(merged, weights, merge.dtype)
    if sources.identical_layers:
        recipe["identical_layers"] = sources.identical_layers
        plans = tuple(
            copied(tensor) if layer_of(tensor.name) in sources.identical_layers else tensor
            for tensor in plans
        )
    return RunMerge(plans, recipe)


def _recipe(
    names: Sequence[str], rows: Sequence[Row], own: Mapping[str, Row], *, simplex: bool
) -> dict[str, Any]:
    """The weights as the recipe has them: of two that sum to 1, the first one's alone."""
    if len(names) == LEAST_SOURCES and simplex:
        found: dict[str, Any] = {"vector": tuple(row[0] for row in rows)}
        outside: dict[str, Any] = {group: row[0] for group, row in own.items()}
    else:
        found = {"order": list(names), "layer_weights": [list(row) for row in rows]}
        outside = {group: list(row) for group, row in own.items()}
    return found | ({"outside": outside} if outside else {})


def _space(spec: RunSpec, sources: VerifiedSources, components: int) -> Space:
    """The space that a run's vectors are of.

    Runs that began before identical layers left the search space have a component for each.
    """
    whole = Space.of(spec, sources.layers, sources.outside)
    if components == whole.dimensions:
        return whole
    return Space.of(spec, sources.layers, sources.outside, sources.identical_layers)


def _settings(merge: MergeSection) -> dict[str, Any]:
    return merge.model_dump(mode="json")
