"""Numbers of tokens that two models and a card allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apbmm_common.checkpoint.headers import Checkpoint, layer_count, text_config

WANTED_ANSWER = 32768
"""Long reasoning ends within so many tokens; the paper's runs allow 35000."""
SHORTEST_PROMPT, CHARACTERS_A_TOKEN = 1024, 2
"""A prompt has more than the question: chat template, the adapter's own text, worked examples."""
ENGINE_SHARE = 0.9
"""The share of a card that vLLM takes by default (`gpu_memory_utilization`)."""
ENGINE_BYTES = 3 << 30
"""What an engine needs beside weights and keys and values: activations, CUDA graphs, NCCL."""
CACHED_BYTES = 2
"""Keys and values are kept in 16 bits."""


@dataclass(frozen=True)
class Limits:
    """Proposed limits, in tokens, and what they come from."""

    max_tokens: int
    context: int
    reasons: tuple[str, ...]
    at_once: int | None = None
    """Answers of full length that the keys and values of one engine have room for."""
    token_bytes: int = 0
    """Bytes of one token's keys and values; 0 where that is not known."""


def propose(
    checkpoints: Sequence[Checkpoint],
    longest_question: int,
    memory: int,
    max_tokens: int | None = None,
) -> Limits:
    """Limits for answers of ``max_tokens``, by default long ones, beside the longest prompt.

    ``longest_question`` is in characters, ``memory`` in bytes of all cards of one worker, 0 where
    that is not known. What is asked for with ``max_tokens`` is kept where the models allow it.
    """
    positions = [_positions(checkpoint) for checkpoint in checkpoints]
    most = min((p for p in positions if p is not None), default=None)
    prompt = max(SHORTEST_PROMPT, _rounded_up(longest_question // CHARACTERS_A_TOKEN))
    wanted = (max_tokens or WANTED_ANSWER) + prompt
    reasons = []
    context = wanted
    if most is not None and most < context:
        context = most
        reasons.append(f"the models have positions for {most}")
    room = cache_tokens(checkpoints, memory) if memory else None
    if room is not None and room < context and room >= 2 * SHORTEST_PROMPT:
        context = _rounded_down(room)
        reasons.append(f"keys and values of {context} tokens fit on the card")
    prompt = min(prompt, context // 2)
    answer = min(max_tokens or WANTED_ANSWER, context - prompt)
    at_once = room // context if room is not None else None
    return Limits(answer, context, tuple(reasons), at_once, token_bytes(_largest(checkpoints)))


def cache_tokens(checkpoints: Sequence[Checkpoint], memory: int) -> int | None:
    """Tokens whose keys and values fit beside the weights; None for other kinds of attention.

    Every layer keeps a key and a value of each key-value head. Negative where not even the weights
    fit.
    """
    largest = _largest(checkpoints)
    token = token_bytes(largest)
    if not token:
        return None
    return int(memory * ENGINE_SHARE - largest.weight_bytes - ENGINE_BYTES) // token


def token_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of one token's keys and values in every layer; 0 for other kinds of attention."""
    config = text_config(checkpoint.config)
    heads = _count(config.get("num_attention_heads"))
    hidden = _count(config.get("hidden_size"))
    kv_heads = _count(config.get("num_key_value_heads")) or heads
    kinds = set(config.get("layer_types") or ())
    if not heads or not hidden or "kv_lora_rank" in config or not kinds <= {"full_attention"}:
        return 0
    width = _count(config.get("head_dim")) or hidden // heads
    return 2 * layer_count(checkpoint) * kv_heads * width * CACHED_BYTES


def _largest(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    return max(checkpoints, key=lambda checkpoint: checkpoint.weight_bytes)


def _count(value: Any) -> int:
    """A number of a config; 0 where it has none."""
    return value if isinstance(value, int) and value > 0 else 0


def _positions(checkpoint: Checkpoint) -> int | None:
    positions = text_config(checkpoint.config).get("max_position_embeddings")
    return positions if isinstance(positions, int) and positions > 1 else None


def _rounded_up(tokens: int) -> int:
    return -(-tokens // SHORTEST_PROMPT) * SHORTEST_PROMPT


def _rounded_down(tokens: int) -> int:
    return tokens // SHORTEST_PROMPT * SHORTEST_PROMPT
