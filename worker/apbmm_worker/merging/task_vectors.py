"""Model-level merges, tensor by tensor: ``base + weight * Theta(task vectors; density)``.

Task vectors are source minus base, in float32 (float64 when the result is stored in float32), read
in chunks from the files as often as the method needs: once for task arithmetic, up to three times
for the others. Only `sparsify` knows what stays of one; here they are put together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from apbmm_common.checkpoint.headers import ITEM_BYTES
from apbmm_worker.merging.methods import TaskVectors
from apbmm_worker.merging.order_statistics import Stream
from apbmm_worker.merging.plan import TensorPlan
from apbmm_worker.merging.sparsify import selection
from apbmm_worker.merging.tensor_bytes import TORCH_DTYPES, read_into
from apbmm_worker.merging.tensor_sums import BLOCK_ELEMENTS, require_finite, sum_dtype


def merged_chunks(
    tensor: TensorPlan, rule: TaskVectors, files: Mapping[Path, int]
) -> Iterator[tuple[int, memoryview]]:
    """Place (in bytes) and stored bytes of one part of a tensor after another.

    The plan's first source is the base. Raises `EvaluationError` (``vector``) for a NaN or an
    infinity, and `SourceError` when a source cannot be read.
    """
    parts = Parts(tensor, files)
    selections = [
        selection(
            rule,
            parts.stream(index),
            tensor.elements,
            parts.row,
            f"{index}\n{tensor.name}",
            tensor.cuts[index - 1] if tensor.cuts else None,
        )
        for index in range(1, len(tensor.sources))
    ]
    item = ITEM_BYTES[tensor.dtype]
    for begin, count in parts.cuts():
        base = parts.read(0, begin, count)
        if selections:
            kept = [
                keep(begin, parts.read(index, begin, count) - base)
                for index, keep in enumerate(selections, start=1)
            ]
            base += rule.weight * together(kept, rule)
        stored = base.to(TORCH_DTYPES[tensor.dtype])
        data = memoryview(stored.view(torch.uint8).numpy())
        require_finite(data, tensor)
        yield begin * item, data


def together(task_vectors: Sequence[torch.Tensor], rule: TaskVectors) -> torch.Tensor:
    """One task vector of several: their sum, or the sum or mean of those that agree with a sign.

    The elected sign of an element is that of the sum; for a sum of 0 it is + by mergekit's
    definition, and none by the papers'. Zeros agree with neither.
    """
    total = _sum(task_vectors)
    if not rule.theta.elect:
        return total
    # Arithmetic with signs, because comparisons of floats take several times as long.
    plus = torch.ones(()).copysign  # of a sum of 0 as well: -0.0 + 0.0 is 0.0
    elected = total.sign_() if rule.definition == "paper" else plus(total + 0.0)
    agreeing = [(task_vector * elected).relu_() for task_vector in task_vectors]
    merged = elected * _sum(agreeing)
    if not rule.theta.mean:
        return merged
    return merged / _sum([part.sign() for part in agreeing]).clamp_(min=1)


def _sum(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    total = terms[0].clone()
    for term in terms[1:]:
        total += term
    return total


class Parts:
    """Reads the same part of a tensor from any of its sources."""

    def __init__(self, tensor: TensorPlan, files: Mapping[Path, int]) -> None:
        self._tensor = tensor
        self._files = files
        self._dtype = sum_dtype(tensor)
        self.row = max(tensor.shape[-1] if tensor.shape else 1, 1)

    def cuts(self) -> Iterator[tuple[int, int]]:
        """Begin and count of each part: whole rows."""
        step = max(BLOCK_ELEMENTS // self.row, 1) * self.row
        for begin in range(0, self._tensor.elements, step):
            yield begin, min(step, self._tensor.elements - begin)

    def read(self, index: int, begin: int, count: int) -> torch.Tensor:
        """A part of the source number ``index``, in the dtype that sums are taken in."""
        source = self._tensor.sources[index]
        item = ITEM_BYTES[source.dtype]
        data = memoryview(bytearray(count * item))
        read_into(self._files[source.file], data, source.offset + begin * item, source.file)
        return torch.frombuffer(data, dtype=TORCH_DTYPES[source.dtype]).to(self._dtype)

    def stream(self, index: int) -> Stream:
        """The task vector of source number ``index``, from its start whenever it is called."""

        def chunks() -> Iterator[tuple[int, torch.Tensor]]:
            for begin, count in self.cuts():
                yield begin, self.read(index, begin, count) - self.read(0, begin, count)

        return chunks
