"""Limits of tokens that `apbmm init` proposes, from positions and a card's memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apbmm.init.limits import cache_tokens, propose
from apbmm_common.checkpoint.headers import Checkpoint, TensorHeader

QWEN3_4B: dict[str, Any] = {
    "num_hidden_layers": 36,
    "hidden_size": 2560,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262144,
}
WEIGHTS = 8_000_000_000 // 36
"""Bytes of a layer, in a model of 4 billion parameters in 16 bits."""


def checkpoint(**changes: Any) -> Checkpoint:
    tensor = TensorHeader("w", "BF16", (WEIGHTS // 2,), Path("w"), 0, WEIGHTS)
    tensors = {f"model.layers.{layer}.w": tensor for layer in range(36)}
    return Checkpoint(Path("model"), {**QWEN3_4B, **changes}, tensors)


def test_long_answers_where_nothing_limits_them() -> None:
    found = propose([checkpoint()], 300, 0)
    assert (found.max_tokens, found.context, found.reasons) == (32768, 33792, ())
    assert found.at_once is None


def test_a_long_question_leaves_the_answer_its_length() -> None:
    found = propose([checkpoint()], 20_000, 0)
    assert found.max_tokens == 32768
    assert found.context >= 32768 + 10_000


def test_positions_limit_the_context() -> None:
    found = propose([checkpoint(), checkpoint(max_position_embeddings=4096)], 300, 0)
    assert (found.max_tokens, found.context) == (3072, 4096)
    assert found.reasons == ("the models have positions for 4096",)
    tiny = propose([checkpoint(max_position_embeddings=256)], 300, 0)
    assert (tiny.max_tokens, tiny.context) == (128, 256)


def test_a_card_holds_keys_and_values_beside_the_weights() -> None:
    # 2 * 36 layers * 8 heads * 128 numbers of 2 bytes: 147,456 bytes a token.
    memory = 24 << 30
    expected = int(memory * 0.9 - checkpoint().weight_bytes - (3 << 30)) // 147_456
    assert cache_tokens([checkpoint()], memory) == expected
    roomy = propose([checkpoint()], 300, memory)
    assert roomy.at_once == expected // roomy.context == 2
    tight = propose([checkpoint()], 300, 14 << 30)
    assert tight.context < 33792
    assert tight.max_tokens == tight.context - 1024
    assert "fit on the card" in tight.reasons[0]
    assert tight.at_once == 1
    too_small = propose([checkpoint()], 300, 8 << 30)
    assert too_small.at_once is not None
    assert too_small.at_once < 1


@pytest.mark.parametrize(
    "other", [{"kv_lora_rank": 512}, {"layer_types": ["full_attention", "linear_attention"]}]
)
def test_nothing_is_said_of_other_kinds_of_attention(other: dict[str, Any]) -> None:
    assert cache_tokens([checkpoint(**other)], 24 << 30) is None


def test_what_is_asked_for_is_kept() -> None:
    assert propose([checkpoint()], 300, 0, 2000).max_tokens == 2000
    assert propose([checkpoint(max_position_embeddings=4096)], 300, 0, 9000).max_tokens == 3072
