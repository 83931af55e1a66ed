"""Tiny random checkpoints for tests: real Hugging Face folders, small enough for a CPU.

``write_tiny_qwen3`` needs no trained weights and gives a folder that transformers and vLLM load,
with a usable tokenizer and chat template. ``write_related`` perturbs a folder into a fine-tune-like
relative, embeddings and final norm included, so that a merge of the two makes sense.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

CHARACTERS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;?!'\"()[]{}<>+-*/=_\n"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT, TURN_START, TURN_END = range(3)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = {
    token: index for index, token in enumerate((*SPECIAL_TOKENS, *sorted(set(CHARACTERS))))
}
VOCABULARY_SIZE = 96  # rows of the embedding; ids from len(VOCABULARY) on are unused


QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": VOCABULARY_SIZE,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "bos_token_id": None,
    "eos_token_id": TURN_END,
    "pad_token_id": END_OF_TEXT,
}
"""The settings that all of `write_tiny_qwen3` share."""


def _qwen3_tensors(
    seed: int, layers: int, hidden: int, head_dim: int, *, tied: bool
) -> dict[str, torch.Tensor]:
    q_width = QWEN3["num_attention_heads"] * head_dim
    kv_width = QWEN3["num_key_value_heads"] * head_dim
    generator = torch.Generator().manual_seed(seed)

    def linear(rows: int, columns: int, gain: float = 1.0) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * (gain / math.sqrt(columns))

    def norm(size: int) -> torch.Tensor:
        return 1 + 0.1 * torch.randn(size, generator=generator)

    residual_gain = 1 / math.sqrt(2 * layers)
    tensors = {
        "model.embed_tokens.weight": torch.randn(VOCABULARY_SIZE, hidden, generator=generator) * 0.1
    }
    for layer in range(layers):
        block = {
            "input_layernorm": norm(hidden),
            "self_attn.q_proj": linear(q_width, hidden),
            "self_attn.k_proj": linear(kv_width, hidden),
            "self_attn.v_proj": linear(kv_width, hidden),
            "self_attn.o_proj": linear(hidden, q_width, residual_gain),
            "self_attn.q_norm": norm(head_dim),
            "self_attn.k_norm": norm(head_dim),
            "post_attention_layernorm": norm(hidden),
            "mlp.gate_proj": linear(2 * hidden, hidden),
            "mlp.up_proj": linear(2 * hidden, hidden),
            "mlp.down_proj": linear(hidden, 2 * hidden, residual_gain),
        }
        tensors |= {f"model.layers.{layer}.{name}.weight": t for name, t in block.items()}
    tensors["model.norm.weight"] = norm(hidden)
    if not tied:
        tensors["lm_head.weight"] = linear(VOCABULARY_SIZE, hidden)
    return tensors


def write_tiny_qwen3(
    path: Path,
    *,
    seed: int,
    layers: int = 12,
    tied: bool = True,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    with_tokenizer: bool = True,
    hidden: int = 64,
    head_dim: int = 16,
    context: int = 1024,
) -> Path:
    """Write a random Qwen3ForCausalLM and return its folder.

    Every tensor, embeddings and norms included, depends on ``seed``. ``shards`` > 1 writes an
    index. About 0.45 M parameters at the defaults. vLLM on a CPU needs a ``head_dim`` of 32.
    """
    tensors = _qwen3_tensors(seed, layers, hidden, head_dim, tied=tied)
    config = {
        **QWEN3,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", config)
    save_tensors(path, {name: t.to(dtype) for name, t in tensors.items()}, shards)
    if with_tokenizer:
        write_tokenizer(path)
    return path


def write_related(
    source: Path, path: Path, *, seed: int, scale: float = 0.1, shards: int = 1
) -> Path:
    """Copy a checkpoint with every float tensor moved by ``scale`` of its own standard deviation.

    Returns ``path``. Dtypes and everything beside the weights stay as they are.
    """
    shutil.copytree(source, path, ignore=shutil.ignore_patterns("*.safetensors*"))
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for name, tensor in sorted(load_tensors(source).items()):
        if tensor.is_floating_point():
            wide = tensor.float()
            # A tensor of equal numbers, such as fresh norm weights, has no spread of its own.
            spread = max(float(wide.std(correction=0)), 0.01)
            noise = torch.randn(wide.shape, generator=generator)
            moved[name] = (wide + scale * spread * noise).to(tensor.dtype)
        else:
            moved[name] = tensor
    save_tensors(path, moved, shards)
    return path


def write_tiny_pair(folder: Path, *, seed: int = 0, **options: Any) -> tuple[Path, Path]:
    """A (thinking, instruct) pair below ``folder``; ``options`` as for `write_tiny_qwen3`."""
    instruct = write_tiny_qwen3(folder / "instruct", seed=seed, **options)
    thinking = write_related(
        instruct, folder / "thinking", seed=seed + 1, shards=options.get("shards", 1)
    )
    return thinking, instruct


def with_identical_layers(path: Path, like: Path, layers: Iterable[int]) -> None:
    """Give a checkpoint the tensors of another in some layers, as a frozen layer has them."""
    prefixes = tuple(f"model.layers.{layer}." for layer in layers)
    same = {n: t for n, t in load_tensors(like).items() if n.startswith(prefixes)}
    save_tensors(path, load_tensors(path) | same, len([*path.glob("*.safetensors")]))


def write_tokenizer(
    path: Path,
    vocabulary: Mapping[str, int] = VOCABULARY,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
) -> None:
    """A character-level tokenizer with ChatML special tokens and chat template."""
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": vocabulary[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in special_tokens
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"[\s\S]"},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": dict(vocabulary), "unk_token": SPECIAL_TOKENS[0]},
    }
    write_json(path / "tokenizer.json", tokenizer)
    write_json(
        path / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": SPECIAL_TOKENS[TURN_END],
            "pad_token": SPECIAL_TOKENS[END_OF_TEXT],
            "unk_token": SPECIAL_TOKENS[END_OF_TEXT],
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1024,
        },
    )
    write_json(
        path / "generation_config.json",
        {"eos_token_id": [TURN_END, END_OF_TEXT], "pad_token_id": END_OF_TEXT, "do_sample": False},
    )


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], shards: int = 1) -> None:
    """Write safetensors: one file, or ``shards`` files (tensors dealt in turn) and their index."""
    if shards == 1:
        save_file(dict(tensors), path / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[shard::shards]}
        save_file(part, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(
        path / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, read by the safetensors library itself."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def edit_config(path: Path, **changes: object) -> None:
    """Change keys of a folder's config.json; the value None removes one."""
    config = json.loads((path / "config.json").read_text()) | changes
    removed = {key for key, value in changes.items() if value is None}
    write_json(path / "config.json", {k: v for k, v in config.items() if k not in removed})


def pad_vocabulary(path: Path, rows: int) -> None:
    """Give embeddings and head more rows, as tools do that round the size of a vocabulary up."""
    tensors = load_tensors(path)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            shape = (rows - len(tensors[name]), *tensors[name].shape[1:])
            padding = torch.full(shape, 0.5, dtype=tensors[name].dtype)
            tensors[name] = torch.cat([tensors[name], padding])
    save_tensors(path, tensors, len([*path.glob("*.safetensors")]))
    edit_config(path, vocab_size=rows)


def rounding_error(
    result: torch.Tensor, thinking: torch.Tensor, instruct: torch.Tensor, weight: float
) -> torch.Tensor:
    """`rounding_error_of_sum` of the merge of two."""
    return rounding_error_of_sum(result, (thinking, instruct), (weight, 1 - weight))


def rounding_error_of_sum(
    result: torch.Tensor, parts: Sequence[torch.Tensor], weights: Sequence[float]
) -> torch.Tensor:
    """Distance of a weighted sum from the exact value, in units of half an ulp of its dtype.

    The exact value is taken in float64. For 16-bit dtypes the distance is reduced by what a few
    roundings in float32 may add, 2^-22 of the parts (not of the summands: weights are rounded,
    too): it decides near-ties either way.
    """
    summands = [part.double() * weight for part, weight in zip(parts, weights, strict=True)]
    exact = torch.stack(summands).sum(dim=0)
    info = torch.finfo(result.dtype)
    exponent = torch.frexp(exact.abs().clamp_min(info.smallest_normal))[1] - 1
    half_ulp = torch.ldexp(torch.full_like(exact, info.eps / 2), exponent)
    share = 0.0 if result.dtype == torch.float32 else 2.0**-22
    magnitude = torch.stack([part.double().abs() for part in parts]).sum(dim=0)
    error = (result.double() - exact).abs() - share * magnitude
    return error / half_ulp


def write_json(file: Path, value: object) -> None:
    """Write a JSON value, indented."""
    file.write_text(json.dumps(value, indent=1), encoding="utf-8")
