"""The merge that a vector of a run stands for; pure, reads no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apbmm_common.checkpoint.headers import layer_of
from apbmm_common.checkpoint.roles import SOURCE_WEIGHTS
from apbmm_common.merge_methods import LINEAR
from apbmm_common.run_file import MergeSection, RunSpec, Space
from apbmm_worker.merging.plan import (
    ModelLevelMerge,
    TensorPlan,
    copied,
    plan,
    plan_task_vectors,
)
from apbmm_worker.merging.source_weights import layer_weights
from apbmm_worker.merging.sources import VerifiedSources

MERGED = tuple(SOURCE_WEIGHTS)


@dataclass(frozen=True, slots=True)
class RunMerge:
    """One merge: the plan of each tensor, and the recipe that is kept beside the weights."""

    plans: tuple[TensorPlan, ...]
    recipe: dict[str, Any]


def merge_of(
    spec: RunSpec, sources: VerifiedSources, vector: Sequence[float], *, reference: bool = False
) -> RunMerge:
    """The merge that a vector of the run's space stands for.

    A ``reference`` is one of the sources: its vector has one weight for each layer, whatever the
    run searches. Random methods draw by the run's seed. Raises `EvaluationError` (``vector``) for a
    vector that is not of the space.
    """
    if reference:
        # The whole source, outside the layers too: Eq. 2 measures all merges by the sources.
        return _linear(MergeSection(dtype=spec.merge.dtype), sources, vector, {})
    space = _space(spec, sources, len(vector))
    if space.method == LINEAR:
        layers, own = space.layer_weights(vector), space.outside_weights(vector)
        return _linear(spec.merge, sources, layers, own)
    weight, searched = space.weight_and_parameters(vector)
    parameters = {**spec.merge.parameters, **searched}
    rule = ModelLevelMerge(space.method, weight, parameters, spec.seed)
    plans = plan_task_vectors(
        {role: sources.checkpoints[role] for role in MERGED},
        sources.checkpoints["base"],
        rule,
        spec.merge.outside_layers,
        spec.merge.dtype,
    )
    return RunMerge(plans, {"task_vectors": rule.recipe, "merge": _settings(spec.merge)})


def _linear(
    merge: MergeSection, sources: VerifiedSources, vector: Sequence[float], own: Mapping[str, float]
) -> RunMerge:
    thinking, instruct = (sources.checkpoints[role] for role in MERGED)
    weights = layer_weights(vector, sources.layers)
    recipe: dict[str, Any] = {"vector": weights, "merge": _settings(merge)}
    if own:
        recipe["outside"] = dict(own)
    plans = plan(thinking, instruct, weights, merge, own)
    if sources.identical_layers:
        recipe["identical_layers"] = sources.identical_layers
        plans = tuple(
            copied(tensor) if layer_of(tensor.name) in sources.identical_layers else tensor
            for tensor in plans
        )
    return RunMerge(plans, recipe)


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
