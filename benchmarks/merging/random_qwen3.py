"""Random bf16 checkpoints in Qwen3's shapes that vLLM loads, written tensor by tensor."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import torch

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Shape:
    """The sizes of a dense Qwen3; embeddings are tied."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_dim: int = 128

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape by name, in the order of the file."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden)
        }
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        block = {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (query, self.hidden),
            "self_attn.k_proj": (key, self.hidden),
            "self_attn.v_proj": (key, self.hidden),
            "self_attn.q_norm": (self.head_dim,),
            "self_attn.k_norm": (self.head_dim,),
            "self_attn.o_proj": (self.hidden, query),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }
        for layer in range(self.layers):
            shapes |= {f"model.layers.{layer}.{n}.weight": shape for n, shape in block.items()}
        return shapes | {"model.norm.weight": (self.hidden,)}

    @property
    def bytes(self) -> int:
        """Bytes of all tensors in bfloat16."""
        return 2 * sum(math.prod(shape) for shape in self.tensors().values())


QWEN3_4B = Shape(36, 2560, 9728, 32, 8, 151_936)
"""Qwen3-4B exactly: 8.04 GB."""


def of_size(gigabytes: float) -> Shape:
    """Qwen3-0.6B's layers, and a vocabulary that makes it about so many GB."""
    bare = Shape(28, 1024, 3072, 16, 8, 0)
    rows = int((gigabytes * 1e9 - bare.bytes) / 2 / bare.hidden)
    if rows < 1000:
        raise SystemExit(f"--gigabytes must be at least {bare.bytes / 1e9 + 0.01:.2f}")
    return Shape(28, 1024, 3072, 16, 8, rows)


def write_random(folder: Path, shape: Shape, seed: int, context: int = 1024) -> Path:
    """Write a checkpoint with a tokenizer; returns the folder. Memory stays flat."""
    folder.mkdir(parents=True)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in shape.tensors().items():
        begin, end = end, end + 2 * math.prod(size)
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(seed)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, size in shape.tensors().items():
            mean, spread = (1.0, 0.1) if "norm" in name else (0.0, 0.02)
            left = math.prod(size)
            while left > 0:
                count = min(left, _BLOCK)
                part = torch.empty(count, dtype=torch.bfloat16)
                part.normal_(mean, spread, generator=generator)
                file.write(memoryview(part.view(torch.uint8).numpy()))
                left -= count
    _write_settings(folder, shape, context)
    return folder


def _write_settings(folder: Path, shape: Shape, context: int) -> None:
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "attention_bias": False,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *"0123456789+-= "))}
    added = [{"id": i, "content": t, "special": True} for i, t in enumerate(SPECIAL)]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{**token, **flags} for token in added],
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "."},
            "behavior": "Isolated",
            "invert": False,
        },
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": SPECIAL[0]},
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[0],
        "chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}",
    }
    for name, value in (
        ("config.json", config),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", settings),
    ):
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
