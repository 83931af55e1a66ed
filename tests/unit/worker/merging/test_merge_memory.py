"""Writing a merge takes little memory, whatever the size of the sources."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_common.run_file import MergeSection
from apbmm_worker.merging.sources import verify_sources
from layer_wise_merge import materialise
from tiny_checkpoints import load_tensors, save_tensors, write_tiny_pair

ROWS = 2048
MOST_MB = 60


def peak_of(folder: Path, rows: int) -> tuple[float, float]:
    """MB of a source, and MB of memory beyond what was there that merging two of them took."""
    pair = dict(zip(("thinking", "instruct"), write_tiny_pair(folder, layers=2), strict=True))
    wide = torch.randn(rows, 8192, dtype=torch.float32)
    for number, path in enumerate(pair.values()):
        tensors = load_tensors(path)
        for layer in range(2):
            tensors[f"model.layers.{layer}.mlp.wide.weight"] = wide + number
        save_tensors(path, tensors)
    del wide, tensors
    sources = verify_sources(pair, folder / "cache")
    materialise(sources, [0.25, 0.75], MergeSection(), "instruct", folder / "warm")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    materialise(sources, [0.75, 0.25], MergeSection(), "instruct", folder / "out")
    assert read_checkpoint(folder / "out").weight_bytes > 2 * rows * 8192 * 4
    return sources.checkpoints["instruct"].weight_bytes / 1e6, resident("VmHWM") - before


def resident(line: str) -> float:
    """MB of memory of this process, now or at its peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0]) / 1000


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    size, peak = peak_of(tmp_path, ROWS)
    assert size > 1.5 * MOST_MB
    assert peak < MOST_MB
