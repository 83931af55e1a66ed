"""Environment variables that must be set before torch, vllm or evalscope are first imported.

`worker_environment` is pure and `apply` sets the variables in this process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from apbmm_common.errors import UsageError

CPU = "cpu"
BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
"""vLLM's switch of batch invariance, which is no engine argument."""

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Nothing is ever fetched: models and benchmarks come from local folders.

huggingface_hub, transformers and datasets obey HF_*. ModelScope has no such switch, so EvalScope is
told that its hub is the local disk (see `evaluation`).
"""

ON_CARDS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
"""Defaults of a worker with cards.

Cards are numbered as nvidia-smi and vLLM number them. CUDA's own order begins with the fastest.

The engine's process is started anew. vLLM as a library forks instead, and where PyTorch has counted
the cards through CUDA, as it does for the parts of a divided one (MIG), no fork can use them. A
fork would also hold the daemon's socket open when this process dies.
"""


def cards(device: str) -> int:
    """Number of GPUs that a device string names; 0 for ``cpu``."""
    return 0 if device == CPU else len(device.split(","))


def worker_environment(
    device: str,
    scratch: Path,
    environment: Mapping[str, str],
    *,
    batch_invariant: bool = False,
) -> dict[str, str]:
    """Variables to set for one worker on ``device`` (``cpu``, ``0`` or ``0,1``).

    ``environment`` is the present one. GPU numbers count within its CUDA_VISIBLE_DEVICES, if it has
    one, as CUDA itself counts and as a Slurm job needs. Its settings of threads, of vLLM's
    processes and of the order of cards stay. ``batch_invariant`` is that of the run file's
    [engine]. Raises `UsageError` for a device that is not there.
    """
    values = dict(OFFLINE)
    values["HF_DATASETS_CACHE"] = str(scratch / "datasets-cache")
    values["VLLM_LOGGING_LEVEL"] = environment.get("VLLM_LOGGING_LEVEL", "WARNING")
    if batch_invariant:
        values[BATCH_INVARIANT] = "1"
    if device != CPU:
        values["CUDA_VISIBLE_DEVICES"] = _visible(device, environment.get("CUDA_VISIBLE_DEVICES"))
        return values | {name: environment.get(name, value) for name, value in ON_CARDS.items()}
    # In one process an engine starts in seconds instead of a minute. A small model takes ten times
    # as long with two threads as with one. "auto" would pin the threads of every engine to core 0.
    defaults = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    values |= {name: environment.get(name, value) for name, value in defaults.items()}
    values["CUDA_VISIBLE_DEVICES"] = ""
    return values


def _visible(device: str, present: str | None) -> str:
    try:
        wanted = [int(part) for part in device.split(",")]
    except ValueError:
        raise UsageError(
            f"{device!r} is not a device", "give a GPU number, several with commas, or cpu"
        ) from None
    if len(set(wanted)) != len(wanted) or min(wanted) < 0:
        raise UsageError(f"{device!r} is not a set of GPU numbers")
    if present is None or not present.strip():
        return ",".join(str(number) for number in wanted)
    visible = [part.strip() for part in present.split(",")]
    if max(wanted) >= len(visible):
        raise UsageError(
            f"GPU {max(wanted)} is not there: CUDA_VISIBLE_DEVICES={present} names {len(visible)}",
            "GPU numbers count within CUDA_VISIBLE_DEVICES",
        )
    return ",".join(visible[number] for number in wanted)


def apply(device: str, scratch: Path, *, batch_invariant: bool = False) -> None:
    """Set `worker_environment` in this process, before anything heavy is imported."""
    values = worker_environment(device, scratch, os.environ, batch_invariant=batch_invariant)
    os.environ.update(values)
