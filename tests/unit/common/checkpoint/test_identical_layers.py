"""Which layers hold the same tensors in all sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from apbmm_common.checkpoint import contents as module
from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_common.checkpoint.identical_layers import identical_layers, not_searched
from apbmm_common.errors import SourceError
from tiny_checkpoints import load_tensors, save_tensors, with_identical_layers, write_tiny_pair

LAYERS = 5


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_tiny_pair(tmp_path, layers=LAYERS)


def found(*folders: Path) -> tuple[int, ...]:
    return identical_layers([read_checkpoint(folder) for folder in folders])


def test_layers_of_an_ordinary_pair_all_differ(pair: tuple[Path, Path]) -> None:
    assert found(*pair) == ()


@pytest.mark.parametrize("shards", [1, 3])
def test_identical_layers_are_found_however_the_files_are_cut(tmp_path: Path, shards: int) -> None:
    thinking, instruct = write_tiny_pair(tmp_path, layers=LAYERS, shards=shards)
    with_identical_layers(thinking, instruct, (0, 2, 3))
    assert found(thinking, instruct) == (0, 2, 3)


def test_the_last_byte_counts(pair: tuple[Path, Path]) -> None:
    thinking, instruct = pair
    with_identical_layers(thinking, instruct, range(LAYERS))
    tensors = load_tensors(thinking)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name].view(-1)[-1] += 1.0
    save_tensors(thinking, tensors)
    assert found(thinking, instruct) == (0, 2, 3, 4)


def test_of_three_sources_all_must_hold_the_same(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    third = write_tiny_pair(tmp_path / "more", layers=LAYERS, seed=4)[0]
    with_identical_layers(pair[0], pair[1], (1, 2))
    with_identical_layers(third, pair[1], (2, 4))
    assert found(*pair, third) == (2,)


def test_equal_numbers_in_two_dtypes_are_not_the_same_tensors(pair: tuple[Path, Path]) -> None:
    thinking, instruct = pair
    with_identical_layers(thinking, instruct, (1,))
    half = {name: t.to(torch.bfloat16) for name, t in load_tensors(thinking).items()}
    save_tensors(thinking, half)
    assert found(thinking, instruct) == ()


def test_a_comparison_ends_at_the_first_difference(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor of the pair differs, so each layer costs one chunk of each source."""
    read: list[int] = []
    original = module.read_into

    def counted(descriptor: int, buffer: memoryview, *rest: Any) -> None:
        read.append(len(buffer))
        original(descriptor, buffer, *rest)

    monkeypatch.setattr(module, "read_into", counted)
    monkeypatch.setattr(module, "CHUNK_BYTES", 64)
    assert found(*pair) == ()
    assert read == [64] * (2 * LAYERS)


def test_a_file_that_ends_early_is_named(pair: tuple[Path, Path]) -> None:
    checkpoints = [read_checkpoint(folder) for folder in pair]
    with_identical_layers(*pair, range(LAYERS))
    weights = pair[0] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    with pytest.raises(SourceError, match="has become shorter"):
        identical_layers(checkpoints)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ((7,), "layer 7 is not searched: its tensors are identical in all sources"),
        (
            (0, 1, 2, 5),
            "layers 0-2, 5 are not searched: their tensors are identical in all sources",
        ),
    ],
)
def test_what_a_person_reads(layers: tuple[int, ...], text: str) -> None:
    assert not_searched(layers) == text
