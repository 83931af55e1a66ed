"""The shapes that configs ask for, against the models that transformers itself builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apbmm_common.checkpoint.expected_tensors import expected_shapes, unexpected_tensors
from apbmm_common.checkpoint.headers import read_checkpoint
from tiny_checkpoints import edit_config
from tiny_families import FAMILIES, write_family

KNOWN = {"llama", "mistral", "qwen2", "qwen3"}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        *((family, {}) for family in FAMILIES),
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("qwen3", {"attention_bias": True}),
        ("mistral", {"head_dim": 16}),
    ],
)
def test_a_model_has_just_the_tensors_of_its_config(
    tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    model = read_checkpoint(write_family(tmp_path, family, seed=0, layers=2, options=options))
    shapes = {name: tensor.shape for name, tensor in model.tensors.items()}
    expected = expected_shapes(model)
    assert expected.items() <= shapes.items()
    assert unexpected_tensors(model) == []
    if family in KNOWN:
        assert expected == shapes


@pytest.mark.parametrize("key", ["num_key_value_heads", "head_dim", "intermediate_size"])
def test_a_config_that_leaves_a_size_to_its_class_says_nothing(tmp_path: Path, key: str) -> None:
    write_family(tmp_path, "qwen3", seed=0, layers=1)
    edit_config(tmp_path, **{key: None})
    assert expected_shapes(read_checkpoint(tmp_path)) == {}
