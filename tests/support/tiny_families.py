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
_DELTA_NET = {  # layers of linear attention; every fourth has full attention
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
_HYBRID = {"head_dim": 8, **_DELTA_NET}
_SHARED = {**_EXPERTS, "shared_expert_intermediate_size": 16}
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
    "olmo3": ("Olmo3Config", {"sliding_window": 64}),
    "mistral-window": ("MistralConfig", {"head_dim": 8, "sliding_window": 64}),
    "glm4": ("Glm4Config", {"head_dim": 8}),
    "qwen3-next": ("Qwen3NextConfig", {**_HYBRID, **_SHARED}),
    "qwen3.5": ("Qwen3_5TextConfig", _HYBRID),
    "qwen3.5-moe": ("Qwen3_5MoeTextConfig", {**_HYBRID, **_SHARED}),
    "gpt-oss": ("GptOssConfig", {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"]}),
    "falcon-h1": (
        "FalconH1Config",
        {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 16},
    ),
}


_TOWER = {"hidden_size": 32, "intermediate_size": 32}
_QWEN_TOWER = {**_TOWER, "depth": 2, "num_heads": 2, "num_position_embeddings": 16}
_LAYERED_TOWER = {**_TOWER, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
# Config class, the family of the language model within, and the settings of the vision tower.
VISION: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3.5-vision": ("Qwen3_5Config", "qwen3.5", _QWEN_TOWER),
    "qwen3-vision": ("Qwen3VLConfig", "qwen3", {**_QWEN_TOWER, "deepstack_visual_indexes": [0]}),
    "gemma3-vision": ("Gemma3Config", "gemma3", {**_LAYERED_TOWER, "patch_size": 14}),
    "mistral3": (
        "Mistral3Config",
        "mistral",
        {**_LAYERED_TOWER, "patch_size": 14, "head_dim": 16, "model_type": "pixtral"},
    ),
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

    ``options`` go over those of the family's small configuration, of its language model where it is
    one of `VISION`.
    """
    torch.manual_seed(seed)
    if family in VISION:
        name, text, tower = VISION[family]
        settings = _settings(text, layers, options)
        width = settings["hidden_size"]
        if "depth" in tower:
            tower = {**tower, "out_hidden_size": width}
        settings["model_type"] = getattr(transformers, FAMILIES[text][0]).model_type
        config = getattr(transformers, name)(text_config=settings, vision_config=tower)
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=dtype)
    else:
        config = getattr(transformers, FAMILIES[family][0])(**_settings(family, layers, options))
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():  # fresh norms are all ones, biases all zero
            parameter.add_(noise * torch.randn(parameter.shape).to(dtype))
    model.save_pretrained(path, max_shard_size=max_shard_size)
    return path


def _settings(family: str, layers: int, options: Mapping[str, Any]) -> dict[str, Any]:
    own = dict(FAMILIES[family][1])
    if "layer_types" in own:
        kinds = own["layer_types"]
        own["layer_types"] = [kinds[layer % len(kinds)] for layer in range(layers)]
    return {**_COMMON, **own, **options, "num_hidden_layers": layers}
