"""The lines of benchmarks/real_merges/hypervolume_curves.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apbmm_master.search.pareto import hypervolume
from benchmarks.real_merges.hypervolume_curves import curves
from benchmarks.real_merges.report import INITIAL, REFERENCE
from benchmarks.real_merges.searches import BUDGET


def searched(method: str, seed: int, height: float, evaluations: int = BUDGET) -> str:
    """A search that measures one point again and again, and a better one last."""
    points = [[height, 0.5]] * (evaluations - 1) + [[height + 0.1, 0.5]]
    kept: dict[str, object] = {"method": method, "seed": seed, "y": points}
    kept |= {cost: [1] * evaluations for cost in ("tokens", "seconds")}
    return json.dumps(kept) + "\n"


def test_a_line_is_the_mean_over_seeds_with_its_interval(tmp_path: Path) -> None:
    kept = tmp_path / "campaigns.jsonl"
    kept.write_text(
        searched("ap-bmm-plus", 101, 0.2)
        + searched("ap-bmm-plus", 102, 0.4)
        + searched("uniform", 0, 0.3)
        + searched("not drawn", 101, 0.9)
        + "".join(searched("sobol", seed, seed - 100.0) for seed in (101, 102, 103))
        + searched("qnehvi", 101, 0.9)
    )
    rows = list(curves(kept))
    names = {"ap-bmm-plus", "one weight for all layers", "Sobol points"}
    assert {row["method"] for row in rows} == names, "qnehvi lacks a seed"
    first = [row for row in rows if row["method"] == "ap-bmm-plus"]
    assert [row["x"] for row in first] == list(range(INITIAL, BUDGET + 1))
    ends = [hypervolume([[height, 0.5]], REFERENCE) for height in (0.3, 0.5)]
    assert first[-1]["y"] == pytest.approx(sum(ends) / 2)
    assert first[0]["y"] < first[-1]["y"]
    # Student's t of one degree of freedom, at 97.5 %, is 12.706.
    half = 12.706 * (ends[1] - ends[0]) / 2
    assert first[-1]["high"] - first[-1]["y"] == pytest.approx(half, rel=1e-4)
    two = [row for row in rows if row["method"] == "Sobol points"]
    heights = [hypervolume([[height, 0.5]], REFERENCE) for height in (1.0, 2.0)]
    assert two[0]["y"] == pytest.approx(sum(heights) / 2), "of the seeds that both have"
    alone = [row for row in rows if row["method"] == "one weight for all layers"]
    assert all(row["low"] == row["y"] == row["high"] for row in alone)
