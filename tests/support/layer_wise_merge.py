"""The layer-wise merge of a pair, written as a folder by the code that the workers use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apbmm_common.run_file import MergeSection
from apbmm_worker.merging.merge import MergeReport, write_merge
from apbmm_worker.merging.plan import plan
from apbmm_worker.merging.source_weights import layer_weights
from apbmm_worker.merging.sources import VerifiedSources
from apbmm_worker.merging.tensor_bytes import ByteProgress


def materialise(
    sources: VerifiedSources,
    vector: Sequence[float],
    merge: MergeSection,
    template_from: str,
    out: Path,
    progress: ByteProgress | None = None,
) -> MergeReport:
    """Write the merge of ``vector`` (one weight in [0, 1] a layer); the rest as `write_merge`."""
    weights = layer_weights(vector, sources.layers)
    thinking, instruct = (sources.checkpoints[role] for role in ("thinking", "instruct"))
    plans = plan(thinking, instruct, weights, merge)
    recipe = {"vector": weights, "merge": merge.model_dump(mode="json")}
    return write_merge(sources, plans, recipe, template_from, out, progress, dtype=merge.dtype)
