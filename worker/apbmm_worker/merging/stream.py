"""A merge as a stream of tensors, which a live engine is loaded from without a folder.

The plan of the merge crosses to the engine's processes as bytes. Each process opens the sources
itself; they share the page cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from pydantic import TypeAdapter

from apbmm_common.checkpoint.contents import opened_files
from apbmm_worker.merging.merge import Place, merged_tensors, nowhere
from apbmm_worker.merging.planning.plan import TensorPlan
from apbmm_worker.merging.planning.shards import UNSHARDED, WHOLE, Shards, plan_of_shard

Plans = tuple[TensorPlan, ...]


@cache
def _adapter() -> TypeAdapter[Plans]:
    return TypeAdapter(Plans)


def to_bytes(plans: Sequence[TensorPlan]) -> bytes:
    """Plans as bytes for `MergeStream`."""
    return _adapter().dump_json(tuple(plans))


class MergeStream:
    """The tensors of a merge, bit for bit those that `merge.write_merge` would write."""

    def __init__(self, plans: bytes) -> None:
        self._plans = _adapter().validate_json(plans)

    @property
    def plans(self) -> Plans:
        """The plans of the tensors."""
        return self._plans

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by name."""
        return {tensor.name: tuple(tensor.shape) for tensor in self._plans}

    def tensors(
        self, place: Place = nowhere, shards: Shards = UNSHARDED
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value of each tensor in turn, or of the shard that is wanted of it.

        Values are made where ``place`` says. Raises `EvaluationError` (``vector``) for a NaN or an
        infinity, and `SourceError` when a source cannot be read.
        """
        files = {source.file for tensor in self._plans for source in tensor.sources}
        planned = [plan_of_shard(tensor, shards.get(tensor.name, WHOLE)) for tensor in self._plans]
        left = {tensor.name: shard for tensor, shard in planned}
        plans = [tensor for tensor, _ in planned]
        with opened_files(files) as descriptors:
            for name, value in merged_tensors(plans, descriptors, place):
                yield name, left[name].of(value)
