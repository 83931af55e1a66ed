"""Which shard of a checkpoint's tensor one process of a tensor-parallel engine holds.

vLLM gives every process an equal share: rows of the matrices that multiply first (q, k, v, gate,
up) and of the vocabulary, columns of those that multiply after them (o, down). Where k and v have
fewer heads than there are processes, several processes hold the same heads. vLLM's modules are
recognised by their attributes, so that nothing of vLLM is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from apbmm_worker.merging.planning.plan import TensorPlan, WeightedSum

_QKV = 3


@dataclass(frozen=True, slots=True)
class Shard:
    """``count`` rows (``dim`` 0) or columns (``dim`` 1) from ``begin`` on; without a count, all."""

    dim: int = 0
    begin: int = 0
    count: int | None = None

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The shard of a tensor, as a view."""
        return tensor if self.count is None else tensor.narrow(self.dim, self.begin, self.count)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shard's shape in a tensor of this shape."""
        if self.count is None:
            return shape
        return (*shape[: self.dim], self.count, *shape[self.dim + 1 :])


WHOLE = Shard()

Shards = Mapping[str, Shard]
"""The shard that is wanted of each tensor, by name; a tensor that is not named is wanted whole."""
UNSHARDED: Shards = MappingProxyType({})


def plan_of_shard(tensor: TensorPlan, shard: Shard) -> tuple[TensorPlan, Shard]:
    """The smallest plan that makes a shard, and which shard of the plan's tensor that is.

    Rows lie together in a file and are planned alone. Columns do not, and a model-level merge
    depends on whole tensors.
    """
    if shard.count is None or shard.dim > 0 or not isinstance(tensor.rule, WeightedSum):
        return tensor, shard
    return tensor.rows(shard.begin, shard.count), WHOLE


def shard_of(
    module: Any, attribute: str, shape: tuple[int, ...], position: int, stacked: int
) -> Shard | None:
    """The shard that ``module`` holds of a tensor of this ``shape``; None where it is not known.

    ``attribute``: ``weight`` or ``bias``. The module stacks this many tensors of the checkpoint,
    and this one is at ``position`` among them.
    """
    size, rank = getattr(module, "tp_size", 1), getattr(module, "tp_rank", None)
    if size == 1 or type(module).__name__ == "ReplicatedLinear":
        return WHOLE
    vocabulary = getattr(module, "shard_indices", None)
    if vocabulary is not None:
        begin, end = vocabulary.org_vocab_start_index, vocabulary.org_vocab_end_index
        return Shard(0, begin, end - begin)
    if rank is None:
        return None
    if hasattr(module, "input_is_parallel"):
        return WHOLE if attribute == "bias" else _share(1, shape[1], size, rank)
    return _rows(module, shape[0], position, stacked)


def _rows(module: Any, rows: int, position: int, stacked: int) -> Shard | None:
    """The shard of one of the tensors in a module that is split by rows."""
    known = len(getattr(module, "output_sizes", ((),)))
    if not hasattr(module, "output_partition_sizes") or stacked != known or stacked > _QKV:
        return None  # one tensor of the checkpoint may be several of the module's
    copies = getattr(module, "num_kv_head_replicas", 1) if position else 1
    return _share(0, rows, module.tp_size // copies, module.tp_rank // copies)


def _share(dim: int, length: int, size: int, rank: int) -> Shard | None:
    count, rest = divmod(length, size)
    return None if rest else Shard(dim, rank * count, count)
