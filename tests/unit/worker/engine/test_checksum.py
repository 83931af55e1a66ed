"""Checksums of tensors: every bit counts, and storage does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apbmm_common.checkpoint.contents import opened_files
from apbmm_common.checkpoint.headers import read_headers
from apbmm_worker.engine.checksum import (
    MergeChecksums,
    checksum,
    checksum_in_file,
    folder_digest,
)
from apbmm_worker.merging.merge import write_merge
from apbmm_worker.merging.planning.plan import plan_sum
from apbmm_worker.merging.planning.source_weights import pair_weights
from apbmm_worker.merging.sources import verify_sources
from tiny_checkpoints import load_tensors, save_tensors, write_tiny_qwen3

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3,), (7, 5), (64, 300), (1021, 16), (2050, 129)])
def test_every_bit_counts(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    source = torch.Generator().manual_seed(1)
    tensor = torch.randn(*shape, generator=source).to(dtype)
    before = checksum(tensor)
    assert checksum(tensor.clone()) == before
    for place in {0, tensor.numel() // 2, tensor.numel() - 1}:
        for bit in (1, 128):
            other = tensor.clone()
            other.view(-1).view(torch.uint8)[place * tensor.element_size()] ^= bit
            assert checksum(other) != before


def test_the_order_counts() -> None:
    tensor = torch.arange(3000 * 64, dtype=torch.float32).view(3000, 64)
    sums = {checksum(tensor)}
    for other in (tensor.roll(1, 0), tensor.roll(1, 1), tensor.roll(1000, 0), tensor.flip(0)):
        sums.add(checksum(other))
    assert len(sums) == 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_storage_does_not_count(dtype: torch.dtype) -> None:
    """Rows of a larger tensor, wherever they begin, and a transposed copy."""
    whole = torch.randn(50, 33, generator=torch.Generator().manual_seed(2)).to(dtype)
    for first in range(5):
        rows = whole[first : first + 20]
        assert checksum(rows) == checksum(rows.clone())
    assert checksum(whole.T) == checksum(whole.T.contiguous())


def test_a_folders_digest_follows_every_tensor_and_no_sharding(tmp_path: Path) -> None:
    one = write_tiny_qwen3(tmp_path / "one", seed=1, layers=2)
    sharded = write_tiny_qwen3(tmp_path / "sharded", seed=1, layers=2, shards=3)
    assert folder_digest(sharded) == folder_digest(one)
    other = write_tiny_qwen3(tmp_path / "other", seed=1, layers=2)
    tensors = load_tensors(one)
    for name in ("model.norm.weight", "model.layers.1.mlp.up_proj.weight"):
        changed = tensors | {name: tensors[name].clone()}
        changed[name].view(-1)[-1] += 1
        save_tensors(other, changed)
        assert folder_digest(other) != folder_digest(one)
    renamed = {name.replace("layers.0", "layers.7"): tensor for name, tensor in tensors.items()}
    save_tensors(other, renamed)
    assert folder_digest(other) != folder_digest(one)


def test_tensors_may_be_left_out_of_a_folders_digest(tmp_path: Path) -> None:
    folder = write_tiny_qwen3(tmp_path / "one", seed=1, layers=2)
    whole = folder_digest(folder)
    tensors = load_tensors(folder)
    save_tensors(folder, tensors | {"extra.weight": torch.ones(3)})
    assert folder_digest(folder) != whole
    assert folder_digest(folder, frozenset({"extra.weight"})) == whole


@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8])
def test_a_checksum_in_a_file_is_the_tensors_own(dtype: torch.dtype, tmp_path: Path) -> None:
    """Also where the tensor is longer than what is read at once, and no multiple of 8 bytes."""
    sizes = (1, 5, 8 * 1021, 4_181_016 // dtype.itemsize, 9_000_001 // dtype.itemsize)
    tensors = {str(size): (torch.arange(size, dtype=torch.int64) % 251).to(dtype) for size in sizes}
    save_tensors(tmp_path, tensors)
    headers = read_headers(tmp_path / "model.safetensors")
    with opened_files([tmp_path / "model.safetensors"]) as files:
        for name, tensor in tensors.items():
            found = checksum_in_file(headers[name], *files.values())
            assert found == checksum(tensor), (dtype, name)


def test_a_merges_digest_is_taken_while_it_is_written(tmp_path: Path) -> None:
    """Or not at all, where a tensor of odd length moves those behind it off their words."""
    one = write_tiny_qwen3(tmp_path / "a", seed=1, layers=2, dtype=torch.bfloat16)
    two = write_tiny_qwen3(tmp_path / "b", seed=2, layers=2, dtype=torch.bfloat16)

    def taken(folder: Path) -> str | None:
        sources = verify_sources({"thinking": one, "instruct": two}, None)
        plans = plan_sum(sources.checkpoints, pair_weights([0.25, 0.75]))
        checksums = Recorded(plans)
        write_merge(sources, plans, {}, "thinking", folder, additions=checksums)
        return checksums.digest()

    assert taken(tmp_path / "merge") == folder_digest(tmp_path / "merge")
    for folder in (one, two):
        odd = torch.ones(3, dtype=torch.bfloat16)
        save_tensors(folder, {"a.odd": odd} | load_tensors(folder))
    assert taken(tmp_path / "odd") in (None, folder_digest(tmp_path / "odd"))


class Recorded(MergeChecksums):
    """Checksums alone."""

    def finish(self, _: Path) -> dict[str, str]:
        return {}
