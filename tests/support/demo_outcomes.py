"""Outcomes of three real searches of the demo pair, 40 merges and the two sources each.

`apbmm demo --seed 0`, `1` and `2`, extracted by `benchmarks.partial_answers.estimates extract`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apbmm_master.search.arrays import Array

FILE = Path(__file__).parents[1] / "fixtures" / "demo_outcomes.npz"


@dataclass(frozen=True)
class Merges:
    """Vectors (n, D), scores and tokens (n, Q) of the merges of one search on one benchmark."""

    vectors: Array
    scores: Array
    tokens: Array


def demo_outcomes(benchmark: str) -> list[Merges]:
    """The merges of each search, "chain" or "trail"."""
    with np.load(FILE) as file:
        return [
            Merges(
                *(
                    file[f"{run}/{part}"].astype(np.float64)
                    for part in ("vectors", f"{benchmark}/scores", f"{benchmark}/tokens")
                )
            )
            for run in range(3)
        ]
