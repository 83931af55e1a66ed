"""Tiny random models of the families users bring, built by transformers itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers

# Config class and what it needs beyond `_COMMON`. All are text models with tied or untied heads as
# the family has them.
_COMMON: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 8, "tie_word_embeddings": True}),
    "qwen3-moe": ("Qwen3MoeConfig", {"head_dim": 8, **_EXPERTS}),
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}),
    "gemma2": ("Gemma2Config", {"head_dim": 8}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 8}),
    "phi3": ("Phi3Config", {}),
    "olmo2": ("Olmo2Config", {}),
}


def write_family(
    path: Path,
    family: str,
    *,
    seed: int,
    layers: int = 11,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: str = "1GB",
    noise: float = 0.02,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Write a random model of a family as its ``save_pretrained`` does; returns the folder.

    ``options`` go over those of the family's small configuration.
    """
    name, own = FAMILIES[family]
    settings = {**_COMMON, **own, **options, "num_hidden_layers": layers}
    config = getattr(transformers, name)(**settings)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():  # fresh norms are all ones, biases all zero
            parameter.add_(noise * torch.randn(parameter.shape).to(dtype))
    model.save_pretrained(path, max_shard_size=max_shard_size)
    return path
