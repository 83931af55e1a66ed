"""From a vector of a run to the tensors of its merge; pure, reads no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from apbmm_common.runfile import LINEAR, RunSpec
from apbmm_common.space import Space
from apbmm_worker.merge_plan import TensorPlan, layer_weights, plan, plan_task_vectors
from apbmm_worker.sources import VerifiedSources
from apbmm_worker.task_vectors import TaskVectors

MERGED = ("thinking", "instruct")


@dataclass(frozen=True, slots=True)
class RunMerge:
    """One merge: what becomes of each tensor, and the recipe that is kept beside the weights."""

    plans: tuple[TensorPlan, ...]
    recipe: dict[str, Any]


def merge_of(
    spec: RunSpec, sources: VerifiedSources, vector: Sequence[float], *, reference: bool = False
) -> RunMerge:
    """The merge that a vector of the run's space asks for.

    A ``reference`` is one of the sources, so its vector has one weight for each layer whatever the
    run searches. Model-level methods that draw at random draw by the run's seed. Raises
    `EvaluationError` (``vector``) for a vector that asks for no merge.
    """
    space = Space.of(spec, sources.layers)
    if reference or space.method == LINEAR:
        weights = vector if reference else space.layer_weights(vector)
        return _linear(spec, sources, layer_weights(weights, sources.layers))
    weight, density = space.weight_and_density(vector)
    rule = TaskVectors(space.method, weight, density, spec.seed)
    plans = plan_task_vectors(
        {role: sources.checkpoints[role] for role in MERGED},
        sources.checkpoints["base"],
        rule,
        spec.merge.outside_layers,
        spec.merge.dtype,
    )
    return RunMerge(plans, {"task_vectors": asdict(rule), "merge": _settings(spec)})


def _linear(spec: RunSpec, sources: VerifiedSources, weights: tuple[float, ...]) -> RunMerge:
    thinking, instruct = (sources.checkpoints[role] for role in MERGED)
    plans = plan(thinking, instruct, weights, spec.merge)
    return RunMerge(plans, {"vector": weights, "merge": _settings(spec)})


def _settings(spec: RunSpec) -> dict[str, Any]:
    return spec.merge.model_dump(mode="json")
