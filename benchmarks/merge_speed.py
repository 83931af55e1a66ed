"""Materialising a merge against the fastest plain copy of the same bytes, in the same run.

Two random bf16 Qwen3-shaped checkpoints (1 GB each by default) are merged; the yardstick reads both
and writes one with no arithmetic, by the faster of two plain means. Ratios are of medians over
interleaved repetitions. Run: python benchmarks/merge_speed.py [--gigabytes 1] [--repeat 5]
[--folder DIR]... (default: a folder on disk and, if it has room, /dev/shm).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from apbmm_common.runfile import Merge
from apbmm_worker.merge import materialise
from apbmm_worker.sources import VerifiedSources, verify_sources

LAYERS = 28
CHUNK = 1 << 20


def write_source(folder: Path, gigabytes: float, seed: int) -> Path:
    """A bf16 checkpoint of about so many GB with the tensor shapes of a small Qwen3."""
    hidden, generator = 1024, torch.Generator().manual_seed(seed)
    layer_elements = hidden * (2048 + 1024 + 1024 + 2048 + 3 * 3072) + 2 * hidden + 2 * 128
    rows = int((gigabytes * 1e9 / 2 - LAYERS * layer_elements) / hidden)
    if rows < 1:
        raise SystemExit(f"--gigabytes must be at least {LAYERS * layer_elements * 2 / 1e9:.2f}")

    def random(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    tensors = {"model.embed_tokens.weight": random(rows, hidden)}
    for layer in range(LAYERS):
        shapes = {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_norm": (128,),
            "self_attn.k_norm": (128,),
            "self_attn.q_proj": (2048, hidden),
            "self_attn.k_proj": (1024, hidden),
            "self_attn.v_proj": (1024, hidden),
            "self_attn.o_proj": (hidden, 2048),
            "mlp.gate_proj": (3072, hidden),
            "mlp.up_proj": (3072, hidden),
            "mlp.down_proj": (hidden, 3072),
        }
        tensors |= {
            f"model.layers.{layer}.{name}.weight": random(*shape) for name, shape in shapes.items()
        }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": LAYERS}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    return folder


def copy_positioned(first: Path, second: Path, out: Path) -> None:
    """Read both in chunks into reused buffers, write the second."""
    one, two = bytearray(CHUNK), bytearray(CHUNK)
    with first.open("rb", 0) as a, second.open("rb", 0) as b, out.open("wb", 0) as c:
        while (count := b.readinto(two)) > 0:
            a.readinto(one)
            c.write(memoryview(two)[:count])


def copy_in_kernel(first: Path, second: Path, out: Path) -> None:
    """Read the first in chunks, have the kernel copy the second."""
    one = bytearray(CHUNK)
    with first.open("rb", 0) as a:
        while a.readinto(one) > 0:
            pass
    with second.open("rb", 0) as b, out.open("wb", 0) as c:
        while os.sendfile(c.fileno(), b.fileno(), None, 1 << 27) > 0:
            pass


def timed(action: Callable[[], object]) -> float:
    """Seconds of wall clock."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def resident(line: str) -> int:
    """Resident memory of this process in kB: ``VmRSS`` now, ``VmHWM`` at its peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0])


def compare(sources: VerifiedSources, folder: Path, repeat: int) -> dict[str, float]:
    """Median seconds of each means, writing into ``folder``."""
    first, second = (sources.checkpoints[role].files[0] for role in ("thinking", "instruct"))
    vector = [(layer + 0.5) / LAYERS for layer in range(LAYERS)]
    out = folder / "out"
    ways: dict[str, Callable[[], object]] = {
        "copy, positioned": lambda: copy_positioned(first, second, folder / "copy"),
        "copy, in kernel": lambda: copy_in_kernel(first, second, folder / "copy"),
        "materialise": lambda: materialise(sources, vector, Merge(), "instruct", out),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        order = list(ways.items())
        for name, action in order[turn % len(order) :] + order[: turn % len(order)]:
            taken = timed(action)
            if turn > 0:  # the first turn warms the page cache
                seconds[name].append(taken)
            (folder / "copy").unlink(missing_ok=True)
            shutil.rmtree(out, ignore_errors=True)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Print seconds and ratios for each folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, action="append")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        disk = Path(temporary)
        folders = arguments.folder or [disk, Path("/dev/shm")]  # noqa: S108
        paths = {
            role: write_source(disk / role, arguments.gigabytes, seed)
            for seed, role in enumerate(("thinking", "instruct"))
        }
        sources = verify_sources(paths, disk / "cache")
        size = sources.checkpoints["instruct"].weight_bytes
        print(f"{size / 1e9:.3f} GB each; verified in {sources.seconds:.2f} s, once")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = resident("VmHWM")
        for folder in folders:
            if shutil.disk_usage(folder).free < 2.5 * size:
                print(f"{folder}: too little room, left out")
                continue
            scratch = Path(tempfile.mkdtemp(dir=folder))
            try:
                seconds = compare(sources, scratch, arguments.repeat)
            finally:
                shutil.rmtree(scratch)
            fastest = min(value for name, value in seconds.items() if name != "materialise")
            parts = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
            print(f"{folder}: {parts}; ratio {seconds['materialise'] / fastest:.2f}")
        grown = resident("VmHWM") - before
        print(f"peak resident memory grew by {grown / 1024:.0f} MB while merging")


if __name__ == "__main__":
    main()
