"""The layer-wise merge of a pair, planned and written as a folder by the code of the workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apbmm_common.checkpoint.headers import Checkpoint
from apbmm_common.run_file import MergeSection
from apbmm_worker.merging.arithmetic.tensor_bytes import ByteProgress
from apbmm_worker.merging.merge import MergeReport, write_merge
from apbmm_worker.merging.planning.plan import TensorPlan, plan_sum
from apbmm_worker.merging.planning.source_weights import (
    SourceWeights,
    outside_rows,
    pair_weights,
    stick_breaking,
)
from apbmm_worker.merging.sources import VerifiedSources


def plan(
    thinking: Checkpoint, instruct: Checkpoint, weights: Sequence[float], merge: MergeSection
) -> tuple[TensorPlan, ...]:
    """The plan of a merge of two sources, by the first one's weight for each layer."""
    sources = {"thinking": thinking, "instruct": instruct}
    layers = pair_weights(weights).layers
    rows = outside_rows(merge.outside_layers, tuple(sources), layers)
    return plan_sum(sources, SourceWeights(layers, rows), merge.dtype)


def materialise(
    sources: VerifiedSources,
    vector: Sequence[float],
    merge: MergeSection,
    template_from: str,
    out: Path,
    progress: ByteProgress | None = None,
) -> MergeReport:
    """Write the merge of ``vector`` (one weight in [0, 1] a layer); the rest as `write_merge`."""
    thinking, instruct = (sources.checkpoints[role] for role in ("thinking", "instruct"))
    weights = [row[0] for row in stick_breaking(vector, sources.layers, 2)]
    plans = plan(thinking, instruct, weights, merge)
    recipe = {"vector": weights, "merge": merge.model_dump(mode="json")}
    return write_merge(sources, plans, recipe, template_from, out, progress, dtype=merge.dtype)
