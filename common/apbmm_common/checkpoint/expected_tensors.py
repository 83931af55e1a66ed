"""The shapes that tensors must have by a checkpoint's config.

All tensors of the Llama family and its closest relatives are known. An engine does not need to
notice that one is missing: vLLM leaves a part of a joined matrix (``up_proj`` in ``gate_up_proj``)
as memory happened to be, and transformers draws it at random. Of other models only the embeddings,
the head and some norms are known, under the names that most of them share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from apbmm_common.checkpoint.headers import Checkpoint, flat_config, prediction_tensors
from apbmm_common.checkpoint.tensor_groups import stated_tie

Shapes = dict[str, tuple[int, ...]]

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_GROUPS = "num_key_value_heads"
_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
    *("num_attention_heads", _GROUPS),
)
_FAMILY = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_MATRICES = re.compile(r"(model\.(language_model\.)?embed_tokens|lm_head)\.weight")
_NORMS = re.compile(r"model\.(language_model\.)?(layers\.\d+\.input_layernorm|norm)\.weight")


def unexpected_tensors(checkpoint: Checkpoint) -> list[str]:
    """Tensors that a model of the family with this config does not have.

    What loaders pass over is left out: rotary frequencies, layers for multi-token prediction, heads
    that are tied.
    """
    if checkpoint.config.get("model_type") not in _FAMILY:
        return []
    known = _family_shapes(checkpoint.config).keys() | prediction_tensors(checkpoint)
    names = [name for name in checkpoint.tensors if not name.endswith("rotary_emb.inv_freq")]
    return [name for name in names if known and name not in known]


def expected_shapes(checkpoint: Checkpoint) -> Shapes:
    """The shapes of those tensors whose shapes are known, by name.

    A tensor that is not in the checkpoint is missing.
    """
    if checkpoint.config.get("model_type") in _FAMILY:
        shapes = _family_shapes(checkpoint.config)
        if stated_tie(checkpoint.config) is not False:  # some tools write shared tensors once
            tied = next((name for name in (HEAD, EMBEDDINGS) if name not in checkpoint.tensors), "")
            shapes.pop(tied, None)
        return shapes
    config = flat_config(checkpoint.config)
    vocabulary, hidden = config.get("vocab_size"), config.get("hidden_size")
    # Some models have embeddings of another width.
    if not _are_sizes(vocabulary, hidden) or "word_embed_proj_dim" in config:
        return {}
    found: dict[str, Any] = {}
    for name in checkpoint.tensors:
        if _MATRICES.fullmatch(name):
            found[name] = (vocabulary, hidden)
        elif _NORMS.fullmatch(name):
            found[name] = (hidden,)
    return found


def _family_shapes(config: Mapping[str, Any]) -> Shapes:
    """The shapes of all tensors of a model of the family; none if the config lacks a size."""
    stated = {key: config.get(key) for key in _SIZES}
    if config["model_type"] == "llama":  # the others have defaults that are not the heads
        stated[_GROUPS] = stated[_GROUPS] or stated["num_attention_heads"]
    if config["model_type"] == "qwen3":  # likewise, and not what the heads leave of the width
        stated["head_dim"] = config.get("head_dim")
    if not _are_sizes(*stated.values()):
        return {}
    shapes: Shapes = {
        f"model.layers.{layer}.{name}": shape
        for layer in range(config["num_hidden_layers"])
        for name, shape in _layer_shapes({**config, **stated}).items()
    }
    hidden = config["hidden_size"]
    shapes |= dict.fromkeys((EMBEDDINGS, HEAD), (config["vocab_size"], hidden))
    return shapes | {"model.norm.weight": (hidden,)}


def _layer_shapes(config: Mapping[str, Any]) -> Shapes:
    kind, hidden, inner = (config[k] for k in ("model_type", "hidden_size", "intermediate_size"))
    width = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * width, config[_GROUPS] * width
    attention: Shapes = {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
    }
    mlp: Shapes = {
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }
    matrices = {f"self_attn.{name}": shape for name, shape in attention.items()}
    matrices |= {f"mlp.{name}": shape for name, shape in mlp.items()}
    biased = {
        "llama": ["self_attn"] * bool(config.get("attention_bias"))
        + ["mlp"] * bool(config.get("mlp_bias")),
        "qwen2": ["self_attn.q", "self_attn.k", "self_attn.v"],
        "qwen3": ["self_attn"] * bool(config.get("attention_bias")),
        "mistral": [],
    }[kind]
    norms: Shapes = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (hidden,))
    if kind == "qwen3":
        norms |= dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), (width,))
    return {
        **{f"{name}.weight": shape for name, shape in (matrices | norms).items()},
        **{f"{n}.bias": s[:1] for n, s in matrices.items() if n.startswith(tuple(biased))},
    }


def _are_sizes(*values: Any) -> bool:
    return all(isinstance(value, int) and value > 0 for value in values)
