"""Model-level merges of one tensor: ``base + weight * merge(task vectors)``, part by part.

Task vectors are source minus base, in float32 (float64 when the result is stored in float32), read
in parts from the files as often as the method needs: once, and once or twice more for a method
that depends on the whole tensor. The methods themselves are in `apbmm_common.merge_methods`; here
they are given the task vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from apbmm_common.checkpoint.contents import read_into
from apbmm_common.checkpoint.headers import ITEM_BYTES
from apbmm_common.merge_methods import METHODS
from apbmm_worker.merging.arithmetic.order_statistics import RankFilter
from apbmm_worker.merging.arithmetic.random_draws import RandomDraw, by_rank, draw_key, even
from apbmm_worker.merging.arithmetic.tensor_bytes import TORCH_DTYPES
from apbmm_worker.merging.arithmetic.weighted_sum import BLOCK_ELEMENTS, require_finite, sum_dtype
from apbmm_worker.merging.planning.plan import ModelLevelMerge, TensorPlan


def merged_parts(
    tensor: TensorPlan, rule: ModelLevelMerge, files: Mapping[Path, int]
) -> Iterator[tuple[int, memoryview]]:
    """Place (in bytes) and stored bytes of one part of a tensor after another.

    The plan's first source is the base. Raises `EvaluationError` (``vector``) for a NaN or an
    infinity, and `SourceError` when a source cannot be read.
    """
    merge = METHODS[rule.method].merge
    assert merge is not None, "a weighted sum is planned as one"
    reader = _PartReader(tensor, files)
    task_vectors = [
        _StreamedTaskVector(reader, index, rule.seed) for index in range(1, len(tensor.sources))
    ]
    item = ITEM_BYTES[tensor.dtype]
    for begin, count in reader.parts():
        base = reader.source(0, begin, count)
        for task_vector in task_vectors:
            task_vector.move_to(begin, reader.source(task_vector.index, begin, count) - base)
        base += rule.weight * merge(task_vectors, **rule.parameters)
        stored = base.to(TORCH_DTYPES[tensor.dtype])
        data = memoryview(stored.view(torch.uint8).numpy())
        require_finite(data, tensor)
        yield begin * item, data


class _PartReader:
    """Reads the same part of a tensor from any of its sources."""

    def __init__(self, tensor: TensorPlan, files: Mapping[Path, int]) -> None:
        self.tensor = tensor
        self.row = max(tensor.shape[-1] if tensor.shape else 1, 1)
        self._files = files
        self._dtype = sum_dtype(tensor)

    def parts(self) -> Iterator[tuple[int, int]]:
        """First element and number of elements of each part: whole rows."""
        step = max(BLOCK_ELEMENTS // self.row, 1) * self.row
        for begin in range(0, self.tensor.elements, step):
            yield begin, min(step, self.tensor.elements - begin)

    def source(self, index: int, begin: int, count: int) -> torch.Tensor:
        """A part of the source number ``index``, in the dtype that sums are taken in."""
        source = self.tensor.sources[index]
        item = ITEM_BYTES[source.dtype]
        data = memoryview(bytearray(count * item))
        read_into(self._files[source.file], data, source.offset + begin * item, source.file)
        return torch.frombuffer(data, dtype=TORCH_DTYPES[source.dtype]).to(self._dtype)

    def task_vector(self, index: int) -> Iterator[tuple[int, torch.Tensor]]:
        """All parts of source number ``index`` minus base, from the start."""
        for begin, count in self.parts():
            yield begin, self.source(index, begin, count) - self.source(0, begin, count)


PartFilter = Callable[[int, torch.Tensor], torch.Tensor]
"""Given the parts of a tensor in order (first element, values), what stays of each."""


class _StreamedTaskVector:
    """The `apbmm_common.merge_methods.TaskVector` of a merge function.

    A result over the whole tensor is prepared by passes of its own over the files, when it is
    first asked for.
    """

    def __init__(self, reader: _PartReader, index: int, seed: int) -> None:
        """``index``: of the source in the plan, where 0 is the base."""
        self.index = index
        self._reader = reader
        self._key = draw_key(seed, index, reader.tensor.name)
        self._begin = 0
        self._values = torch.empty(0)
        self._filters: dict[tuple[str, float, float], PartFilter] = {}
        self._results: dict[tuple[str, float, float], torch.Tensor] = {}

    def move_to(self, begin: int, values: torch.Tensor) -> None:
        """Go on to the next part, which starts at the element ``begin``."""
        self._begin = begin
        self._values = values
        self._results.clear()

    @property
    def values(self) -> torch.Tensor:
        return self._values

    @property
    def elements(self) -> int:
        return self._reader.tensor.elements

    def by_magnitude(self, first: int, count: int) -> torch.Tensor:
        if first == 0 and count >= self.elements:
            return self._values
        return self._filtered(
            ("by_magnitude", first, count), lambda: RankFilter(self._stream, first, count)
        )

    def at_random(self, chance: float) -> torch.Tensor:
        if chance >= 1.0:
            return self._values
        return self._filtered(
            ("at_random", chance, 0.0),
            lambda: RandomDraw(self._stream, self.elements, self._key, even(chance)),
        )

    def at_random_by_rank(self, chance: float, spread: float) -> torch.Tensor:
        if chance - spread >= 1.0:
            return self._values
        return self._filtered(
            ("at_random_by_rank", chance, spread),
            lambda: RandomDraw(
                self._stream, self.elements, self._key, by_rank(chance, spread, self._reader.row)
            ),
        )

    def _stream(self) -> Iterator[tuple[int, torch.Tensor]]:
        return self._reader.task_vector(self.index)

    def _filtered(
        self, request: tuple[str, float, float], prepare: Callable[[], PartFilter]
    ) -> torch.Tensor:
        """This part of the result of a request; each filter sees each part once."""
        if request not in self._results:
            if request not in self._filters:
                self._filters[request] = prepare()
            self._results[request] = self._filters[request](self._begin, self._values)
        return self._results[request]
