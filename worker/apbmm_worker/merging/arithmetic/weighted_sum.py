"""Weighted sums of stored tensors, ``sum_i weights[i] * source_i``: here weights are multiplied.

(Sources that are kept on a GPU are summed there, in `engine.resident_sources`.)

Sums are taken in float32 (in float64 when the result is stored in float32) and rounded once, to
nearest even. A result is therefore within half a unit in the last place of the exact value, with
two exceptions: where the exact value is nearly half-way between two stored numbers, the roundings
in float32 may choose the farther one, and where the terms nearly cancel, the result is within 2^-22
of their sizes.

Tensors are computed chunk by chunk, through buffers that are reused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from apbmm_common.checkpoint.contents import read_into
from apbmm_common.checkpoint.headers import ITEM_BYTES, TensorHeader
from apbmm_common.errors import EvaluationError
from apbmm_worker.merging.arithmetic.tensor_bytes import FileBuffer, all_finite, stored_dtype
from apbmm_worker.merging.planning.plan import TensorPlan, WeightedSum

CHUNK_BYTES = 1 << 21  # of the result, computed and written at once
# Elements whose sums are taken at once in wider numbers than the stored ones: these stay in the
# cache of a core.
BLOCK_ELEMENTS = 1 << 15

_ONE_ULP = 2.0**-52

Terms = list[tuple[torch.Tensor, float]]
"""Values and weight of each source whose weight is not 0."""


class Summation(threading.local):
    """Computes stored bytes of weighted sums; every thread that calls it has its own buffers."""

    def __init__(self, files: Mapping[Path, int]) -> None:
        """``files``: descriptors of all weight files, as `contents.opened` gives them."""
        self._files = files
        self._buffers: list[FileBuffer] = []
        self._wide = [bytearray(BLOCK_ELEMENTS * 8) for _ in range(2)]

    def __call__(
        self, tensor: TensorPlan, rule: WeightedSum, begin: int, stored: memoryview
    ) -> None:
        """Fill ``stored`` with the tensor's elements from ``begin``.

        Raises `SourceError` when a source cannot be read, and `EvaluationError` (``vector``) when
        the result holds a NaN or an infinity.
        """
        if rule.copied is not None:
            self._copy(tensor, tensor.sources[rule.copied], begin, stored)
        else:
            if fits_lerp(tensor, rule):
                self._lerp(tensor, rule, begin, stored)
                # lerp takes a difference, which overflows beyond half of the largest number.
                if all_finite(stored, tensor.dtype):
                    return
            terms = self._terms(tensor, rule, begin, len(stored) // ITEM_BYTES[tensor.dtype])
            self._sum(tensor, terms, _values(stored, tensor.dtype))
        require_finite(stored, tensor)

    def _copy(
        self, tensor: TensorPlan, source: TensorHeader, begin: int, stored: memoryview
    ) -> None:
        if source.dtype == tensor.dtype:
            self._read(source, begin, stored)
            return
        count = len(stored) // ITEM_BYTES[tensor.dtype]
        values = self._buffered(0, source, begin, count)
        for block, result in _blocks(values, _values(stored, tensor.dtype)):
            result.copy_(block)

    def _lerp(self, tensor: TensorPlan, rule: WeightedSum, begin: int, stored: memoryview) -> None:
        """The sum of two sources whose weights sum to 1, in one operation.

        The second source is read into the place of the result, and changed there.
        """
        one, two = tensor.sources
        count = len(stored) // ITEM_BYTES[tensor.dtype]
        values = self._read(two, begin, stored)
        torch.lerp(values, self._buffered(0, one, begin, count), rule.weights[0], out=values)

    def _terms(self, tensor: TensorPlan, rule: WeightedSum, begin: int, count: int) -> Terms:
        weighted = [pair for pair in zip(tensor.sources, rule.weights, strict=True) if pair[1]]
        return [
            (self._buffered(slot, source, begin, count), weight)
            for slot, (source, weight) in enumerate(weighted)
        ]

    def _sum(self, tensor: TensorPlan, terms: Terms, stored: torch.Tensor) -> None:
        dtype = sum_dtype(tensor)
        for *blocks, result in _blocks(*(values for values, _ in terms), stored):
            total, product = (
                torch.frombuffer(wide, dtype=dtype, count=len(result)) for wide in self._wide
            )
            total.copy_(blocks[0]).mul_(terms[0][1])
            for block, (_, weight) in zip(blocks[1:], terms[1:], strict=True):
                total.add_(product.copy_(block).mul_(weight))
            result.copy_(total)

    def _buffered(self, slot: int, source: TensorHeader, begin: int, count: int) -> torch.Tensor:
        """``count`` elements from ``begin``, read into the buffer number ``slot``."""
        while slot >= len(self._buffers):
            self._buffers.append(FileBuffer())
        item = ITEM_BYTES[source.dtype]
        into = self._buffers[slot].at(source.offset + begin * item, count * item)
        return self._read(source, begin, into)

    def _read(self, source: TensorHeader, begin: int, into: memoryview) -> torch.Tensor:
        offset = source.offset + begin * ITEM_BYTES[source.dtype]
        read_into(self._files[source.file], into, offset, source.file)
        return _values(into, source.dtype)


def require_finite(data: memoryview, tensor: TensorPlan) -> None:
    """Raise `EvaluationError` when stored bytes of a tensor hold a NaN or an infinity."""
    if not all_finite(data, tensor.dtype):
        raise not_finite(tensor)


def not_finite(tensor: TensorPlan) -> EvaluationError:
    """The error of a merge in which a tensor holds a NaN or an infinity."""
    return EvaluationError(
        f"tensor {tensor.name} of the merge holds a NaN or an infinity",
        f"a weight is too large for {tensor.dtype}, or a source is damaged",
        kind="vector",
    )


def sum_dtype(tensor: TensorPlan) -> torch.dtype:
    """The dtype that sums are taken in: at least twice the stored precision, except for float64."""
    dtypes = {tensor.dtype, *(source.dtype for source in tensor.sources)}
    return torch.float64 if tensor.dtype == "F32" or "F64" in dtypes else torch.float32


def fits_lerp(tensor: TensorPlan, rule: WeightedSum) -> bool:
    """Whether `torch.lerp` computes the sum: two 16-bit sources whose weights sum to 1.

    lerp computes in float32 and rounds once, as `Summation` does.
    """
    return (
        len(rule.weights) == 2
        and all(rule.weights)
        and abs(sum(rule.weights) - 1.0) <= _ONE_ULP
        and {tensor.dtype, *(source.dtype for source in tensor.sources)} in ({"BF16"}, {"F16"})
    )


def _values(data: memoryview, dtype: str) -> torch.Tensor:
    return torch.frombuffer(data, dtype=stored_dtype(dtype))


def _blocks(*tensors: torch.Tensor) -> Iterator[Sequence[torch.Tensor]]:
    return zip(*(tensor.split(BLOCK_ELEMENTS) for tensor in tensors), strict=True)
