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
from apbmm_worker.merging.planning.plan import (
    ModelLevelMerge,
    TensorPlan,
    copied,
    plan_sum,
    plan_task_vectors,
)
from apbmm_worker.merging.planning.source_weights import (
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
    spec: RunSpec,
    sources: VerifiedSources,
    vector: Sequence[float],
    *,
    reference: bool = False,
    borders: Sequence[int] = (),
) -> RunMerge:
    """The merge that a vector of the run's space stands for.

    ``borders``: those of the run's blocks, where they were found (``grain = "adaptive"``).

    A ``reference`` is one of the sources: its vector has the numbers of each layer, whatever the
    run searches (`reference_vector`). Random methods draw by the run's seed. Raises
    `EvaluationError` (``vector``) for a vector that is not of the space.
    """
    names = spec.sources.names
    merged = {name: sources.checkpoints[name] for name in names}
    if reference:
        # The whole source, outside the layers too: Eq. 2 measures all merges by the sources.
        rows = stick_breaking(vector, sources.layers, len(names))
        weights = SourceWeights(rows, outside_rows("mean", names, rows))
        return _linear(MergeSection(dtype=spec.merge.dtype), sources, merged, weights, {})
    space = _space(spec, sources, len(vector), borders)
    if space.method == LINEAR:
        rows, own = space.layer_rows(vector), space.outside_rows(vector)
        follows = spec.merge.outside_layers
        outside = outside_rows(with_tied_head(own) if follows == "own" else follows, names, rows)
        parts = space.part_rows(vector)
        weights = SourceWeights(rows, outside, parts, sources.part_of if parts else {})
        return _linear(spec.merge, sources, merged, weights, own)
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
    weights: SourceWeights,
    own: Mapping[str, Row],
) -> RunMerge:
    """The weighted sum of the sources ``merged``, or of their task vectors.

    ``own``: the weights of groups outside the layers that are searched.
    """
    simplex = merge.combine == "simplex"
    found = _recipe(tuple(merged), weights, own, simplex=simplex)
    recipe: dict[str, Any] = {**found, "merge": _settings(merge)}
    if not simplex:
        with_base = {BASE_ROLE: sources.checkpoints[BASE_ROLE], **merged}
        return RunMerge(plan_sum(with_base, weights.against_base(), merge.dtype), recipe)
    if sources.identical_layers:
        recipe["identical_layers"] = sources.identical_layers
    plans = plan_sum(merged, weights, merge.dtype)
    identical = (
        copied(tensor) if _is_identical(sources, tensor.name) else tensor for tensor in plans
    )
    return RunMerge(tuple(identical), recipe)


def _is_identical(sources: VerifiedSources, tensor: str) -> bool:
    """Whether a tensor is known to be the same in all sources."""
    layer, part = layer_of(tensor), sources.part_of.get(tensor)
    if layer in sources.identical_layers:
        return True
    return part is not None and layer not in sources.parts.get(part, ())


def _recipe(
    names: Sequence[str], weights: SourceWeights, own: Mapping[str, Row], *, simplex: bool
) -> dict[str, Any]:
    """The weights as the recipe has them: of two that sum to 1, the first one's alone."""
    if len(names) == LEAST_SOURCES and simplex:
        found: dict[str, Any] = {"vector": tuple(row[0] for row in weights.layers)}
        outside: dict[str, Any] = {group: row[0] for group, row in own.items()}
        parts: dict[str, Any] = {p: [row[0] for row in rows] for p, rows in weights.parts.items()}
    else:
        found = {"order": list(names), "layer_weights": [list(row) for row in weights.layers]}
        outside = {group: list(row) for group, row in own.items()}
        parts = {part: [list(row) for row in rows] for part, rows in weights.parts.items()}
    found |= {"parts": parts} if parts else {}
    return found | ({"outside": outside} if outside else {})


def _space(
    spec: RunSpec, sources: VerifiedSources, components: int, borders: Sequence[int]
) -> Space:
    """The space that a run's vectors are of.

    Runs that began before identical layers left the search space have a component for each.
    """
    found = (sources.layers, sources.outside)
    if not sources.parts and not borders:
        whole = Space.of(spec, *found)
        if components == whole.dimensions:
            return whole
    return Space.of(spec, *found, sources.identical_layers, sources.parts, borders)


def _settings(merge: MergeSection) -> dict[str, Any]:
    return merge.model_dump(mode="json")
