"""One merge as a stream of tensors, in place of a folder: what a live engine is loaded from.

The plans of its tensors cross a process border as bytes; each of an engine's processes opens the
sources itself, in the page cache that they share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from pydantic import TypeAdapter

from apbmm_worker.merging.merge import Place, merged_tensors, nowhere
from apbmm_worker.merging.plan import TensorPlan
from apbmm_worker.merging.shards import EVERYTHING, WHOLE, Parts, cut
from apbmm_worker.merging.tensor_bytes import opened_files

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
        """The plans of its tensors."""
        return self._plans

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape, by name."""
        return {tensor.name: tuple(tensor.shape) for tensor in self._plans}

    def tensors(
        self, place: Place = nowhere, parts: Parts = EVERYTHING
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value of each in turn, or of the part that is wanted, made where ``place`` says.

        Raises `EvaluationError` (``vector``) for a NaN or an infinity, and `SourceError` when a
        source cannot be read.
        """
        files = {source.file for tensor in self._plans for source in tensor.sources}
        cuts = [cut(tensor, parts.get(tensor.name, WHOLE)) for tensor in self._plans]
        left = {tensor.name: part for tensor, part in cuts}
        with opened_files(files) as descriptors:
            for name, value in merged_tensors([tensor for tensor, _ in cuts], descriptors, place):
                yield name, left[name].of(value)
