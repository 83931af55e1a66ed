"""Hypervolumes that the synthetic merge landscapes allow, beside those of the paper's Table II.

    python -m benchmarks.search.landscape_calibration > benchmarks/results/landscape_calibration.md

All hypervolumes are of noise-free objectives, at (-0.2, -0.2), means over seeds and their range:

- one weight: 80 merges with one weight for all layers (task arithmetic; the paper's TA, which is
  measured with noise, has .71);
- random: 40 merges with uniform random weights in each layer;
- reachable: a genetic search over layer-wise weights of many noise-free evaluations. The paper's
  methods have 1.13 to 1.33 after 40, and all points of its Table III together 1.39.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

from apbmm_master.search.pareto import front, hypervolume
from benchmarks.search.campaigns import REFERENCE
from benchmarks.search.merge_landscapes import FAMILIES, PAPER_FAMILIES, Landscape
from benchmarks.tables import command_line, made_by, markdown

Array = npt.NDArray[np.float64]
LINE, RANDOM, GENERATION = 80, 40, 100


def objectives(landscape: Landscape, merges: Array) -> Array:
    """Noise-free objectives (n, 2) of merges (n, layers)."""
    return np.array([landscape.truth(x) for x in merges])


def one_weight(landscape: Landscape) -> float:
    """Hypervolume of the merges with one weight for all layers."""
    levels = np.linspace(0.0, 1.0, LINE)
    return _reached(landscape, np.repeat(levels[:, None], landscape.layers, axis=1))


def random_weights(landscape: Landscape) -> float:
    """Hypervolume of random merges."""
    rng = np.random.default_rng(landscape.seed)
    return _reached(landscape, rng.random((RANDOM, landscape.layers)))


def reachable(landscape: Landscape, evaluations: int) -> float:
    """Hypervolume of a genetic search: uniform crossover of members of the front, and mutation."""
    rng = np.random.default_rng(landscape.seed)
    ends = np.repeat(np.linspace(0.0, 1.0, 12)[:, None], landscape.layers, axis=1)
    merges = np.concatenate([ends, rng.random((RANDOM, landscape.layers))])
    found = objectives(landscape, merges)
    while len(merges) < evaluations:
        first, second = (merges[rng.choice(front(found), GENERATION)] for _ in range(2))
        children = np.where(rng.random(first.shape) < 0.5, first, second)
        rates, steps = rng.choice([0.03, 0.1, 0.3], GENERATION), rng.choice([0.1, 0.4], GENERATION)
        changed = rng.random(children.shape) < rates[:, None]
        children = children + changed * steps[:, None] * rng.normal(size=children.shape)
        children = np.clip(children, 0.0, 1.0)
        merges = np.concatenate([merges, children])
        found = np.concatenate([found, objectives(landscape, children)])
    return hypervolume(found, REFERENCE)


def _reached(landscape: Landscape, merges: Array) -> float:
    return hypervolume(objectives(landscape, merges), REFERENCE)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--evaluations", type=int, default=4000, help="of the genetic search")
    options = parser.parse_args()
    print("# What the landscapes allow\n")
    print(made_by(command_line()))
    print("\n".join(__doc__.splitlines()[4:]) + "\n")
    rows = [["family", "one weight", "random", f"reachable with {options.evaluations}"]]
    for family in (*FAMILIES, *PAPER_FAMILIES):
        landscapes = [Landscape(family, seed) for seed in range(options.seeds)]
        columns = [
            [one_weight(each) for each in landscapes],
            [random_weights(each) for each in landscapes],
            [reachable(each, options.evaluations) for each in landscapes],
        ]
        cells = [f"{np.mean(v):.2f} ({min(v):.2f} to {max(v):.2f})" for v in columns]
        rows.append([f"`{family}`", *cells])
    print(markdown(rows))


if __name__ == "__main__":
    main()
