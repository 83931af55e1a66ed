"""What each process of a tensor-parallel engine holds, in modules with the attributes of vLLM's.

That real ones are split like this is tested with vLLM itself (tests/e2e/test_tensor_parallel.py).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from apbmm_worker.merging.planning.shards import WHOLE, Shard, shard_of

SHAPE = (8, 6)
TENSOR = torch.arange(48).view(SHAPE)


class ReplicatedLinear(SimpleNamespace):
    """It has a tp_size in vLLM, too, and is not split."""


def column(rank: int, size: int = 2, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(tp_size=size, tp_rank=rank, output_partition_sizes=[], **more)


def row(rank: int, size: int = 2) -> SimpleNamespace:
    return SimpleNamespace(tp_size=size, tp_rank=rank, input_is_parallel=True)


def test_a_module_that_is_not_split_holds_all() -> None:
    for module in (SimpleNamespace(), column(0, size=1), ReplicatedLinear(tp_size=2, tp_rank=1)):
        assert shard_of(module, "weight", SHAPE, 0, 1) is WHOLE
    assert WHOLE.of(TENSOR) is TENSOR
    assert WHOLE.shape(SHAPE) == SHAPE


@pytest.mark.parametrize(("make", "dim"), [(column, 0), (row, 1)])
def test_the_parts_of_all_processes_are_the_tensor(make: Any, dim: int) -> None:
    parts = [shard_of(make(rank), "weight", SHAPE, 0, 1) for rank in range(2)]
    held = [part.of(TENSOR) for part in parts if part is not None]
    assert torch.equal(torch.cat(held, dim=dim), TENSOR)
    assert [tuple(one.shape) for one in held] == [part.shape(SHAPE) for part in parts if part]


def test_the_bias_of_what_is_split_by_columns_is_whole() -> None:
    assert shard_of(row(1), "bias", (8,), 0, 1) is WHOLE
    assert shard_of(column(1), "bias", (8,), 0, 1) == Shard(0, 4, 4)


def test_few_heads_of_k_and_v_are_held_by_several() -> None:
    """Four processes and two heads of k and v, each of four rows."""
    sizes = {"output_sizes": [16, 16, 16], "num_kv_head_replicas": 2}
    modules = [column(rank, 4, **sizes) for rank in range(4)]
    assert [shard_of(m, "weight", (16, 6), 0, 3) for m in modules] == [
        Shard(0, 4 * rank, 4) for rank in range(4)
    ]
    for position in (1, 2):
        assert [shard_of(m, "weight", (8, 6), position, 3) for m in modules] == [
            Shard(0, 0, 4), Shard(0, 0, 4), Shard(0, 4, 4), Shard(0, 4, 4),
        ]  # fmt: skip


def test_a_vocabulary_is_split_where_vllm_says() -> None:
    indices = SimpleNamespace(org_vocab_start_index=5, org_vocab_end_index=8)
    module = SimpleNamespace(tp_size=2, tp_rank=1, shard_indices=indices)
    part = shard_of(module, "weight", SHAPE, 0, 1)
    assert part is not None
    assert torch.equal(part.of(TENSOR), TENSOR[5:])


@pytest.mark.parametrize(
    ("module", "parts"),
    [
        pytest.param(SimpleNamespace(tp_size=2), 1, id="a rank that is not told"),
        pytest.param(SimpleNamespace(tp_size=2, tp_rank=0), 1, id="an unknown kind"),
        pytest.param(column(0, output_sizes=[4, 4]), 1, id="two tensors in one of the checkpoint"),
        pytest.param(column(0, output_sizes=[8] * 5), 5, id="more than q, k and v"),
        pytest.param(column(0, size=3), 1, id="rows that cannot be shared"),
    ],
)
def test_what_is_not_known_is_not_guessed(module: Any, parts: int) -> None:
    assert shard_of(module, "weight", SHAPE, 0, parts) is None
