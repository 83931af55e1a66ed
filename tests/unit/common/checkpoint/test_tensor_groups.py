"""Groups of tensors that belong to no layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_common.checkpoint.tensor_groups import outside_group, outside_groups
from tiny_checkpoints import edit_config, load_tensors, save_tensors, write_tiny_pair


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.embed_tokens.weight", "embeddings"),
        ("model.language_model.embed_tokens.weight", "embeddings"),
        ("transformer.wte.weight", "embeddings"),
        ("gpt_neox.embed_in.weight", "embeddings"),
        ("model.tok_embeddings.weight", "embeddings"),
        ("model.norm.weight", "norm"),
        ("transformer.ln_f.bias", "norm"),
        ("lm_head.weight", "head"),
        ("embed_out.weight", "head"),
        ("output.weight", "head"),
    ],
)
def test_tensors_of_no_layer_are_in_a_group(name: str, group: str) -> None:
    assert outside_group(name) == group


@pytest.mark.parametrize(
    ("tied", "groups"), [(True, ("embeddings", "norm")), (False, ("embeddings", "norm", "head"))]
)
def test_a_head_is_a_group_unless_it_is_tied(
    tmp_path: Path, tied: bool, groups: tuple[str, ...]
) -> None:
    """Also where the files hold it: some tools write both."""
    pair = write_tiny_pair(tmp_path, layers=2)
    for folder in pair:
        tensors = load_tensors(folder)
        head = tensors["model.embed_tokens.weight"].clone()
        save_tensors(folder, tensors | {"lm_head.weight": head, "model.step": torch.tensor(3)})
        edit_config(folder, tie_word_embeddings=tied)
    assert outside_groups([read_checkpoint(folder) for folder in pair]) == groups


def test_a_group_without_numbers_to_mix_is_none(tmp_path: Path) -> None:
    pair = write_tiny_pair(tmp_path, layers=2)
    for folder in pair:
        tensors = load_tensors(folder)
        save_tensors(folder, {**tensors, "model.norm.weight": torch.tensor([1, 2])})
    assert outside_groups([read_checkpoint(folder) for folder in pair]) == ("embeddings",)
