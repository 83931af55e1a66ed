"""Which part of a checkpoint's tensor one process of a tensor-parallel engine holds.

vLLM gives every process equal shares: rows of what multiplies first (q, k, v, gate, up) and of the
vocabulary, columns of what multiplies after (o, down). Heads of k and v that are fewer than the
processes are held by several. Knows vLLM's modules by what they have, and imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from apbmm_worker.merging.plan import TensorPlan, WeightedSum

_QKV = 3


@dataclass(frozen=True, slots=True)
class Part:
    """``count`` rows (``dim`` 0) or columns (``dim`` 1) from ``begin`` on; without a count, all."""

    dim: int = 0
    begin: int = 0
    count: int | None = None

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The part of a tensor, as a view."""
        return tensor if self.count is None else tensor.narrow(self.dim, self.begin, self.count)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The part's shape in a tensor of this one."""
        if self.count is None:
            return shape
        return (*shape[: self.dim], self.count, *shape[self.dim + 1 :])


WHOLE = Part()

Parts = Mapping[str, Part]
"""What is wanted of each tensor, by name; of one that is not named, all."""
EVERYTHING: Parts = MappingProxyType({})


def cut(tensor: TensorPlan, part: Part) -> tuple[TensorPlan, Part]:
    """The plan of no more than it takes to make ``part``, and what of its result that is.

    Rows lie together in a file and are planned alone. Columns do not, and task vectors are made of
    whole tensors.
    """
    if part.count is None or part.dim > 0 or not isinstance(tensor.rule, WeightedSum):
        return tensor, part
    return tensor.rows(part.begin, part.count), WHOLE


def part_of(
    module: Any, attribute: str, shape: tuple[int, ...], position: int, parts: int
) -> Part | None:
    """What ``module`` holds of a tensor of this ``shape``; None where that is not known.

    ``attribute``: ``weight`` or ``bias``. The tensor is at ``position`` of so many ``parts`` that
    are stacked in the module.
    """
    size, rank = getattr(module, "tp_size", 1), getattr(module, "tp_rank", None)
    if size == 1 or type(module).__name__ == "ReplicatedLinear":
        return WHOLE
    vocabulary = getattr(module, "shard_indices", None)
    if vocabulary is not None:
        begin, end = vocabulary.org_vocab_start_index, vocabulary.org_vocab_end_index
        return Part(0, begin, end - begin)
    if rank is None:
        return None
    if hasattr(module, "input_is_parallel"):
        return WHOLE if attribute == "bias" else _share(1, shape[1], size, rank)
    return _rows(module, shape[0], position, parts)


def _rows(module: Any, rows: int, position: int, parts: int) -> Part | None:
    """Of a module that is split by rows, each of its stacked tensors by itself."""
    stacked = len(getattr(module, "output_sizes", ((),)))
    if not hasattr(module, "output_partition_sizes") or parts != stacked or parts > _QKV:
        return None  # one tensor of the checkpoint may be several of the module's
    copies = getattr(module, "num_kv_head_replicas", 1) if position else 1
    return _share(0, rows, module.tp_size // copies, module.tp_rank // copies)


def _share(dim: int, length: int, size: int, rank: int) -> Part | None:
    count, rest = divmod(length, size)
    return None if rest else Part(dim, rank * count, count)
