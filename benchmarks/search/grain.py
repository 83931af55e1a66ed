"""Compare grains of a merge on synthetic landscapes, coarse to fine among them, on paired seeds.

    python -m benchmarks.search.grain --seeds 10 --out runs.jsonl --report table.md

Every campaign is `ap-bmm-plus` with 8 + 32 evaluations, four at a time, on a landscape of 36 layers
(`merge_landscapes`, importance `informative`; seed i has family i modulo the number of families).
Acquisition has fewer samples and restarts than in a run (`CHEAP`), alike for all grains.

- `layer`: a weight for each layer;
- `blocks`: 9 blocks of four layers;
- `adaptive`: 9 blocks whose borders are found from the importance (`search.block_partition`);
- `coarse to fine`: 9 blocks at first. After 16 evaluations the half of the blocks that a surrogate
  finds sensitive (mean inverse lengthscale over the objectives) is split in two. The search goes on
  over the finer blocks and is told all earlier evaluations.

The report has the hypervolume above (-0.2, -0.2) of the noise-free objectives of each, and the mean
difference of `layer` from it with a 95 % interval (Student's t over the pairs). Campaigns whose
outcome is in `--out` are not run again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from apbmm_master.search.block_partition import block_borders
from apbmm_master.search.methods import Search, create
from apbmm_master.search.pareto import hypervolume
from apbmm_master.search.surrogate.gaussian_process import fit
from apbmm_master.search.surrogate.hyperpriors import dimension_scaled
from benchmarks.search.merge_landscapes import FAMILIES, Landscape, Measured
from benchmarks.search.paired_seeds import main

Array = npt.NDArray[np.float64]
LAYERS, BLOCKS, REFINE_AFTER = 36, 9, 16
INITIAL, BUDGET, WORKERS = 8, 40, 4
GRAINS = ("layer", "blocks", "coarse to fine", "adaptive")
CHEAP = {"samples": 32, "restarts": 2, "raw_samples": 64}


def first_blocks(grain: str, importance: Array) -> list[list[int]]:
    """The layers of each block that a campaign begins with."""
    layers = np.arange(LAYERS)
    if grain == "layer":
        return [[layer] for layer in layers.tolist()]
    if grain == "adaptive":
        return [b.tolist() for b in np.split(layers, block_borders(importance, BLOCKS))]
    return [b.tolist() for b in np.split(layers, BLOCKS)]


def new_search(blocks: list[list[int]], importance: Array, seed: int, initial: int) -> Search:
    """A search for a weight of each block."""
    scores = [importance[block].mean() for block in blocks]
    return create(
        "ap-bmm-plus",
        len(blocks),
        seed=seed,
        budget=BUDGET,
        initial=initial,
        workers=WORKERS,
        importance=scores,
        **CHEAP,
    )


def refined(blocks: list[list[int]], x: Array, told: list[Measured]) -> list[list[int]]:
    """The blocks with the sensitive half of them split in two."""
    coarse = x[:, [block[0] for block in blocks]]
    y = np.array([each.observed for each in told])
    variance = np.array([each.told for each in told])
    model = fit(coarse, y, hyperpriors=dimension_scaled(len(blocks)), variance=variance)
    sensitivity = (1.0 / model.lengthscales).mean(axis=0)
    split = set(np.argsort(-sensitivity)[: len(blocks) // 2].tolist())
    found: list[list[int]] = []
    for number, block in enumerate(blocks):
        middle = len(block) // 2
        found += [block[:middle], block[middle:]] if number in split and middle else [block]
    return found


def campaign(grain: str, seed: int) -> tuple[float]:
    """The hypervolume of the noise-free objectives of all evaluations of one search."""
    landscape = Landscape(FAMILIES[seed % len(FAMILIES)], seed, LAYERS)
    importance = landscape.importance("informative")
    blocks = first_blocks(grain, importance)
    search = new_search(blocks, importance, seed, INITIAL)
    flying: list[Array] = []  # a weight for each layer
    points: list[Array] = []
    told: list[Measured] = []
    while len(told) < BUDGET:
        if grain == "coarse to fine" and len(told) == REFINE_AFTER and len(blocks) == BLOCKS:
            blocks = refined(blocks, np.array(points), told)
            search = new_search(blocks, importance, seed, 1)
            for point, each in zip(points, told, strict=True):
                search.tell(narrowed(point, blocks), each.observed, each.told)
        wanted = min(WORKERS, BUDGET - len(told)) - len(flying)
        pending = [narrowed(each, blocks) for each in flying]
        flying += [widened(x, blocks) for x in search.ask(wanted, pending)] if wanted else []
        point = flying.pop(0)
        measured = landscape.measure(point)
        search.tell(narrowed(point, blocks), measured.observed, measured.told)
        points.append(point)
        told.append(measured)
    return (hypervolume(np.array([each.true for each in told]), (-0.2, -0.2)),)


def narrowed(point: Array, blocks: list[list[int]]) -> Array:
    """The weight of each block, whose layers all have it."""
    return point[[block[0] for block in blocks]]


def widened(x: Array, blocks: list[list[int]]) -> Array:
    """The weight of each layer."""
    point = np.empty(LAYERS)
    for weight, block in zip(x, blocks, strict=True):
        point[block] = weight
    return point


if __name__ == "__main__":
    main(__doc__, GRAINS, campaign, ("grain", "hypervolume"))
