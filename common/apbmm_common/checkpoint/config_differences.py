"""In what two ``config.json`` differ, and which of these differences forbid a merge. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from apbmm_common.checkpoint.headers import flat_config, text_config

Config = Mapping[str, Any]

NOT_STATED = "not stated"
_LONGEST_SHOWN = 60  # characters of a value
ROPE_TABLES = ("rope_parameters", "rope_scaling")
# How a file was written, and the dtype, which a merge states for itself.
_WRITER_KEYS = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype"})
# Keys that may differ: how the file was written, training-only settings, and what the run file or
# the generation config decides. Any other key changes what the layers compute, and then x = 1
# would not be the thinking model.
_FREE_KEYS = _WRITER_KEYS.union(
    ["tokenizer_class", "auto_map", "use_cache", "attn_implementation", "_attn_implementation"],
    ["initializer_range", "attention_dropout", "router_aux_loss_coef", "output_router_logits"],
    ["output_attentions", "output_hidden_states", "return_dict", "pretraining_tp"],
    ["id2label", "label2id", "bos_token_id", "eos_token_id", "pad_token_id"],
    ["max_position_embeddings", "num_hidden_layers", "n_layer"],
    ["num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers"],
    ["text_config", "vision_config", "audio_config"],
)
_ROPE_KEYS = frozenset({"rope_theta", *ROPE_TABLES})
_SLIDING_KEYS = frozenset({"sliding_window", "max_window_layers"})


def config_differences(one: Config, other: Config) -> dict[str, tuple[str, str]]:
    """Keys that two configs do not state alike, with both values in words.

    A text model's config inside another counts as part of it. How the files were written, and the
    dtype, is left out.
    """
    both = (flat_config(one), flat_config(other))
    return {
        key: (_shown(both[0], key), _shown(both[1], key))
        for key in sorted((both[0].keys() | both[1].keys()) - _WRITER_KEYS - {"text_config"})
        if key not in both[0] or key not in both[1] or both[0][key] != both[1][key]
    }


def other_model(roles: tuple[str, str], pair: tuple[Config, Config]) -> str:
    """What two models of other kinds or sizes are; "" for what may be two fine-tunes of one."""
    kinds = [_kind(config) for config in pair]
    stated = [each for each in zip(*kinds, strict=True) if None not in each]
    if all(one == other for one, other in stated):
        return ""
    told = (
        f"{role} is {name or NOT_STATED} ({layers} layers, hidden size {size})"
        for role, (name, layers, size) in zip(roles, kinds, strict=True)
    )
    return f"{', '.join(told)}: not fine-tunes of one model"


def _kind(config: Config) -> tuple[str | None, int | None, int | None]:
    """Architecture, number of layers and hidden size, as far as a config states them."""
    text, names = text_config(config), config.get("architectures")
    return (
        ", ".join(map(str, names)) if isinstance(names, list) else names,
        text.get("num_hidden_layers", text.get("n_layer")),
        text.get("hidden_size", text.get("n_embd")),
    )


def config_faults(roles: tuple[str, str], pair: tuple[Config, Config]) -> list[str]:
    """A line for each setting of the computation that both configs state, and not alike."""
    values = (flat_config(pair[0]), flat_config(pair[1]))
    faults = [
        f"{key}: {roles[0]} has {values[0][key]}, {roles[1]} has {values[1][key]}"
        for key in sorted((values[0].keys() & values[1].keys()) - _skipped(values) - _ROPE_KEYS)
        if values[0][key] != values[1][key]
    ]
    ropes = (_rope(values[0]), _rope(values[1]))
    if None not in ropes and ropes[0] != ropes[1]:
        faults.append(f"rope: {roles[0]} has {ropes[0]}, {roles[1]} has {ropes[1]}")
    return faults


def stated_by_one(roles: tuple[str, str], pair: tuple[Config, Config]) -> list[str]:
    """Settings of the computation that only one of two configs states, each with its value.

    For the other model the engine takes its default, which may be another value. A null says
    nothing.
    """
    values = (flat_config(pair[0]), flat_config(pair[1]))
    skipped = _skipped(values)
    if None not in (_rope(values[0]), _rope(values[1])):  # compared by `config_faults`
        skipped |= _ROPE_KEYS
    return [
        f"only {role} states {key} = {_shown(own, key)}"
        for role, own, other in zip(roles, values, reversed(values), strict=True)
        for key in sorted(own.keys() - other.keys() - skipped)
        if own[key] is not None
    ]


def _skipped(values: tuple[Config, Config]) -> frozenset[str]:
    """Keys that say nothing of the computation in either model."""
    windows = any(config.get("use_sliding_window", True) for config in values)
    return _FREE_KEYS if windows else _FREE_KEYS | _SLIDING_KEYS


def _shown(config: Config, key: str) -> str:
    if key not in config:
        return NOT_STATED
    text = json.dumps(config[key])
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _rope(config: Config) -> dict[str, Any] | None:
    """Rotary settings in one form: transformers 4 wrote two keys, transformers 5 writes one."""
    if not config.keys() & _ROPE_KEYS:
        return None
    tables = [config.get(key) for key in ROPE_TABLES]
    rope = dict(next((table for table in tables if table and isinstance(table, dict)), {}))
    if not any(isinstance(value, dict) for value in rope.values()):
        rope.setdefault("rope_theta", config.get("rope_theta"))
        rope["rope_type"] = rope.pop("type", rope.get("rope_type", "default"))
    return {key: rope[key] for key in sorted(rope) if rope[key] is not None}
