"""Tiny LoRA adapters in the format that PEFT writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tiny_checkpoints import load_tensors, write_json

PREFIX = "base_model.model."
MODULES = ("self_attn.q_proj", "mlp.down_proj")


def write_adapter(
    path: Path,
    base: Path,
    *,
    seed: int = 0,
    rank: int = 4,
    modules: Sequence[str] = MODULES,
    replaced: Mapping[str, torch.Tensor] | None = None,
    scale: float = 0.2,
    **config: Any,
) -> Path:
    """Write a random adapter on all layers of ``base``; returns the folder.

    ``replaced``: tensors that it holds whole; ``config``: settings over the plain ones.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"{PREFIX}{name}": value for name, value in (replaced or {}).items()}
    for name, weight in load_tensors(base).items():
        if name.removesuffix(".weight").endswith(tuple(modules)):
            rows, columns = weight.shape
            key = f"{PREFIX}{name.removesuffix('.weight')}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
            tensors[f"{key}.lora_B.weight"] = scale * torch.randn(rows, rank, generator=generator)
    path.mkdir(parents=True)
    save_file(tensors, path / "adapter_model.safetensors")
    plain = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": [name.rpartition(".")[2] for name in modules],
        "bias": "none",
    }
    write_json(path / "adapter_config.json", {**plain, **config})
    return path
