"""Merges from sources that stay in memory are those that are read from files, bit for bit.

On a CPU; whether a card rounds alike is what the trial at an engine's start finds out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from apbmm_common.checkpoint.contents import opened
from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_common.errors import EvaluationError
from apbmm_common.run_file import MergeSection
from apbmm_worker.engine import resident_sources
from apbmm_worker.engine.resident_sources import SLAB_BYTES, PinnedMemory, ResidentSources
from apbmm_worker.merging.merge import merged_tensors
from apbmm_worker.merging.planning.plan import plan_sum
from apbmm_worker.merging.planning.shards import Shard
from apbmm_worker.merging.planning.source_weights import pair_weights
from layer_wise_merge import plan
from tiny_checkpoints import load_tensors, save_tensors, write_tiny_pair

LAYERS = 3


@pytest.mark.parametrize("part", [resident_sources.PART_ELEMENTS, 101])
@pytest.mark.parametrize("stored", ["source", "float16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bit_for_bit_as_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, stored: str, part: int
) -> None:
    monkeypatch.setattr(resident_sources, "PART_ELEMENTS", part)
    thinking, instruct = map(
        read_checkpoint, write_tiny_pair(tmp_path, seed=3, layers=LAYERS, dtype=dtype)
    )
    sources = ResidentSources(torch.device("cpu"))
    merge = MergeSection.model_validate({"dtype": stored})
    for vector in ([0.3, 0.9, 0.5], [0.0] * LAYERS, [1.0] * LAYERS, [0.0, 1.0, 1 / 3]):
        plans = plan(thinking, instruct, vector, merge)
        found = {name: value.clone() for name, value in sources.tensors(plans)}
        with opened(thinking, instruct) as files:
            expected = {name: value.clone() for name, value in merged_tensors(plans, files)}
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert value.dtype == found[name].dtype
            assert torch.equal(value.view(torch.uint8), found[name].view(torch.uint8)), name


def test_whole_numbers_are_copied(tmp_path: Path) -> None:
    """One that no float32 holds."""
    numbers = torch.tensor([2**60 + 1, -3])
    for folder in write_tiny_pair(tmp_path, seed=3, layers=LAYERS):
        save_tensors(folder, {**load_tensors(folder), "model.places": numbers})
    thinking, instruct = (read_checkpoint(tmp_path / role) for role in ("thinking", "instruct"))
    plans = plan(thinking, instruct, (0.3,) * LAYERS, MergeSection())
    found = dict(ResidentSources(torch.device("cpu")).tensors(plans))
    assert torch.equal(found["model.places"], numbers)


def test_sources_are_read_once(tmp_path: Path) -> None:
    thinking, instruct = map(read_checkpoint, write_tiny_pair(tmp_path, seed=3, layers=LAYERS))
    sources = ResidentSources(torch.device("cpu"))
    plans = plan(thinking, instruct, (0.5,) * LAYERS, MergeSection())
    before = {name: value.clone() for name, value in sources.tensors(plans)}
    for checkpoint in (thinking, instruct):
        for file in checkpoint.files:
            file.write_bytes(b"\0" * file.stat().st_size)
    assert all(torch.equal(before[name], value) for name, value in sources.tensors(plans))


def test_only_the_part_that_is_wanted_is_kept(tmp_path: Path) -> None:
    """As a card of several keeps its share."""
    thinking, instruct = map(read_checkpoint, write_tiny_pair(tmp_path, seed=3, layers=LAYERS))
    plans = plan(thinking, instruct, (0.3, 0.9, 0.5), MergeSection())
    shards = {
        p.name: Shard(dim, 1, p.shape[dim] // 2) for p in plans for dim in (len(p.shape) - 1,)
    }
    shards |= {p.name: Shard(0, 1, p.shape[0] // 2) for p in plans if "q_proj" in p.name}
    whole = dict(ResidentSources(torch.device("cpu")).tensors(plans))
    sources = ResidentSources(torch.device("cpu"))
    for name, value in sources.tensors(plans, shards):
        assert torch.equal(value, shards[name].of(whole[name])), name
    kept = sum(value.untyped_storage().nbytes() for value in sources._kept.values())
    assert kept == sum(source.length for plan in plans for source in plan.sources) // 2


def test_an_infinity_is_the_vectors_fault(tmp_path: Path) -> None:
    folders = write_tiny_pair(tmp_path, seed=3, layers=LAYERS)
    for folder in folders:
        tensors = load_tensors(folder)
        tensors["model.norm.weight"] += 1e5
        save_tensors(folder, tensors)
    thinking, instruct = map(read_checkpoint, folders)
    plans = plan(thinking, instruct, (0.5,) * LAYERS, MergeSection(dtype="float16"))
    with pytest.raises(EvaluationError, match=r"model\.norm\.weight") as failure:
        list(ResidentSources(torch.device("cpu")).tensors(plans))
    assert failure.value.kind == "vector"


def test_sums_need_memory_for_a_part_of_the_tensor_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sources: not what `torch.lerp` sums, so that sums are taken in wider numbers."""
    thinking, instruct = map(
        read_checkpoint, write_tiny_pair(tmp_path, seed=3, layers=LAYERS, dtype=torch.bfloat16)
    )
    weights = pair_weights((0.5,) * LAYERS).against_base()
    sources = {"base": instruct, "thinking": thinking, "instruct": instruct}
    plans = plan_sum(sources, weights)
    monkeypatch.setattr(resident_sources, "PART_ELEMENTS", 64)
    sizes: list[int] = []
    whole = resident_sources._sum

    def watched(*arguments: Any) -> None:
        sizes.extend(len(value) for value in arguments[2])
        whole(*arguments)

    monkeypatch.setattr(resident_sources, "_sum", watched)
    list(ResidentSources(torch.device("cpu")).tensors(plans))
    assert max(sizes) == 64


def test_pinned_memory_is_little_more_than_what_is_taken() -> None:
    """For the matrices of Qwen3-4B, each of which PyTorch alone would round up by a third."""
    slabs: list[int] = []

    def slab(size: int) -> torch.Tensor:
        slabs.append(size)
        return torch.empty(size, dtype=torch.uint8, device="meta")

    memory = PinnedMemory(slab)
    sizes = [151936 * 2560 * 2, *[9728 * 2560 * 2] * 108, *[4096 * 2560 * 2] * 72, 2560 * 2]
    sizes += [2 * SLAB_BYTES + 1]
    taken = [memory.take(size) for size in sizes]
    assert [len(one) for one in taken] == sizes
    assert all(one.storage_offset() % 512 == 0 for one in taken)
    assert all(size.bit_count() == 1 for size in slabs)
    assert sum(slabs) <= sum(sizes) + 3 * SLAB_BYTES
