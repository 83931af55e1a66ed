"""Verification of sources: one pass, digests, cache, and everything it must refuse."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch

from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_common.errors import SourceError
from apbmm_worker.merging import sources as sources_module
from apbmm_worker.merging.sources import VerifiedSources, settings_digest, verify_sources
from denied_files import deny
from tiny_checkpoints import (
    edit_config,
    load_tensors,
    save_tensors,
    write_related,
    write_tiny_pair,
    write_tiny_qwen3,
)

LATE_TENSOR = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_tiny_pair(tmp_path, layers=2)


def verify(pair: tuple[Path, Path], base: Path | None = None) -> VerifiedSources:
    roles = {"thinking": pair[0], "instruct": pair[1], "base": base or pair[1]}
    return verify_sources(roles, pair[0].parent / "cache", distinct=("thinking", "instruct"))


def poke(folder: Path, name: str, index: int, value: float) -> None:
    """Set one element of a tensor and rewrite the folder's single file."""
    tensors = load_tensors(folder)
    tensors[name].view(-1)[index] = value
    save_tensors(folder, tensors)


def test_digest_is_of_names_dtypes_shapes_and_bytes(pair: tuple[Path, Path]) -> None:
    verified = verify(pair)

    expected = hashlib.sha256()
    for name, tensor in sorted(load_tensors(pair[0]).items()):
        expected.update(f'["{name}", "F32", {list(tensor.shape)}]'.encode())
        expected.update(tensor.numpy().tobytes())
    assert verified.digests["thinking"] == expected.hexdigest()
    assert verified.digests["base"] == verified.digests["instruct"]
    assert verified.digests["thinking"] != verified.digests["instruct"]
    assert verified.layers == 2
    assert verified.seconds > 0


def test_digest_does_not_depend_on_sharding(pair: tuple[Path, Path], tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    shutil.copytree(pair[0], sharded, ignore=shutil.ignore_patterns("*.safetensors"))
    save_tensors(sharded, load_tensors(pair[0]), shards=3)
    assert verify(pair).digests == verify((sharded, pair[1])).digests


def test_digest_sees_one_bit_and_chunks_smaller_than_a_tensor(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = verify(pair).digests["thinking"]
    shutil.rmtree(pair[0].parent / "cache")
    monkeypatch.setattr(sources_module, "CHUNK", 1000)
    assert verify(pair).digests["thinking"] == whole
    poke(pair[0], LATE_TENSOR, 777, 0.123)
    assert verify(pair).digests["thinking"] != whole


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_what_is_not_finite_is_named(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    pair = write_tiny_pair(tmp_path, layers=2, dtype=dtype)
    verify(pair)
    poke(pair[0], LATE_TENSOR, -1, value)
    with pytest.raises(SourceError) as caught:
        verify(pair)
    assert f"{pair[0] / 'model.safetensors'}: tensor {LATE_TENSOR}" in caught.value.message


def test_largest_finite_numbers_are_accepted(pair: tuple[Path, Path]) -> None:
    poke(pair[0], LATE_TENSOR, 0, torch.finfo(torch.float32).max)
    poke(pair[0], LATE_TENSOR, 1, torch.finfo(torch.float32).min)
    verify(pair)


def test_identical_sources_are_refused(pair: tuple[Path, Path]) -> None:
    # Sharded differently, so that only the content can tell.
    shutil.rmtree(pair[0])
    shutil.copytree(pair[1], pair[0], ignore=shutil.ignore_patterns("*.safetensors"))
    save_tensors(pair[0], load_tensors(pair[1]), shards=2)
    with pytest.raises(SourceError, match="thinking and instruct are the same checkpoint"):
        verify(pair)
    with pytest.raises(SourceError, match="thinking and instruct are the same checkpoint"):
        verify((pair[1], pair[1]))


def test_incompatible_sources_are_refused_before_reading(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_config(pair[0], hidden_act="gelu")
    monkeypatch.setattr(sources_module, "_read_digest", None)
    with pytest.raises(SourceError, match="hidden_act"):
        verify(pair)


def test_every_byte_is_read_once_and_then_cached(pair: tuple[Path, Path]) -> None:
    roles = {"thinking": pair[0], "instruct": pair[1], "base": pair[1]}
    cache = pair[0].parent / "deep" / "cache"
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    first = verify_sources(roles, cache, progress)

    size = sum(read_checkpoint(path).weight_bytes for path in pair)
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    seen.clear()
    second = verify_sources(roles, cache, progress)
    assert seen == []
    assert second.digests == first.digests
    assert not list(cache.glob("*.partial"))

    poke(pair[0], LATE_TENSOR, 0, 0.5)
    verify_sources(roles, cache, progress)
    assert seen[-1] == (size // 2, size // 2)


def test_damaged_cache_entry_is_only_slow(pair: tuple[Path, Path]) -> None:
    digests = verify(pair).digests
    for entry in (pair[0].parent / "cache").iterdir():
        entry.write_text('{"weights": ')
    assert verify(pair).digests == digests


def test_unwritable_cache_is_only_slow(
    pair: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    verify_sources({"thinking": pair[0], "instruct": pair[1]}, tmp_path / "file" / "cache")
    assert "could not be cached" in caplog.text


def test_no_cache_is_only_slow(pair: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        seen.clear()
        roles = {"thinking": pair[0], "instruct": pair[1]}
        verified = verify_sources(roles, None, lambda done, total: seen.append((done, total)))
        assert seen
        assert verified.digests == verify_sources(roles, pair[0].parent / "cache").digests


def test_integers_must_be_equal(pair: tuple[Path, Path]) -> None:
    for folder, number in zip(pair, (1, 2), strict=True):
        tensors = load_tensors(folder)
        save_tensors(folder, tensors | {"model.steps": torch.tensor([7, number])})
    with pytest.raises(SourceError, match=r"model.steps in thinking and instruct hold other int"):
        verify(pair)
    tensors = load_tensors(pair[0])
    save_tensors(pair[1], load_tensors(pair[1]) | {"model.steps": tensors["model.steps"]})
    verify(pair)


def test_a_source_that_changes_later_is_noticed(pair: tuple[Path, Path]) -> None:
    verified = verify(pair)
    verified.require_unchanged()
    file = pair[0] / "model.safetensors"
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(SourceError, match="thinking weights have changed"):
        verified.require_unchanged()
    file.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        verified.require_unchanged()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json"])
def test_settings_that_may_not_be_read_are_named(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    deny(monkeypatch, pair[0] / name)
    with pytest.raises(SourceError) as caught:
        verify(pair)
    assert f"{pair[0] / name}: cannot be read: Permission denied" in caught.value.message
    assert "may this user read it?" in caught.value.message


def test_settings_digest_is_of_tokenizer_and_configs(tmp_path: Path) -> None:
    folder = write_tiny_qwen3(tmp_path / "a", seed=0, layers=1)
    before = settings_digest(read_checkpoint(folder))
    edit_config(folder, transformers_version="9")
    assert settings_digest(read_checkpoint(folder)) == before
    related = write_related(folder, tmp_path / "b", seed=1)
    assert settings_digest(read_checkpoint(related)) == before
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_text((folder / name).read_text() + "\n")
        after = settings_digest(read_checkpoint(folder))
        assert after != before
        before = after
    edit_config(folder, eos_token_id=1)
    assert settings_digest(read_checkpoint(folder)) != before
