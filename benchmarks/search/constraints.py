"""Does a search find more where it is told of a constraint? Synthetic merges, paired seeds.

    python -m benchmarks.search.constraints --seeds 10 --out runs.jsonl --report table.md

Two objectives are those of an additive landscape of 12 layers. The accuracy on another landscape
has a lower limit, which three of four vectors drawn uniformly break (`SHARE`). A campaign is a
search of 8 + 24 evaluations, four at a time. It ends with the hypervolume of the noise-free
objectives of its feasible merges, feasible by the noise-free accuracy, above (-0.2, -0.2), and with
the number of these. The blind search is told the objectives alone. The report has the mean of each
search, and the mean difference of the first from it with a 95 % interval (Student's t over the
pairs). Campaigns whose outcome is in `--out` are not run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from apbmm_master.search.methods import create, method_class
from apbmm_master.search.pareto import hypervolume
from benchmarks.search.merge_landscapes import Landscape
from benchmarks.search.paired_seeds import main

Array = npt.NDArray[np.float64]
LAYERS, INITIAL, BUDGET, WORKERS = 12, 8, 32, 4
SHARE = 0.75
SEARCHES: Mapping[str, tuple[str, int]] = {
    "ap-bmm-plus": ("ap-bmm-plus", 1),
    "ap-bmm-plus, blind": ("ap-bmm-plus", 0),
    "moead-cmaes": ("moead-cmaes", 1),
    "sobol": ("sobol", 1),
}
"""The method of each search, and how many constraints it is told."""
Outcome = tuple[float, int]


class Limited:
    """A landscape of two objectives, and one whose first objective has a limit."""

    def __init__(self, seed: int) -> None:
        self.goals = Landscape("additive", seed, layers=LAYERS)
        self.other = Landscape("additive", seed + 1000, layers=LAYERS)
        drawn = np.random.default_rng([5, seed]).random((400, LAYERS))
        values = [self.other.measure(x).true[0] for x in drawn]
        self.limit = float(np.quantile(values, SHARE))

    def measured(self, x: Array) -> tuple[Array, Array]:
        """Objectives and margin of a measurement, and the variance that a run tells of them."""
        found, limited = self.goals.measure(x), self.other.measure(x)
        return (
            np.array([*found.observed, limited.observed[0] - self.limit]),
            np.array([*found.binomial, limited.binomial[0]]),
        )

    def true(self, x: Array) -> Array:
        """The same without noise."""
        margin = self.other.measure(x).true[0] - self.limit
        return np.array([*self.goals.measure(x).true, margin])


def campaign(label: str, seed: int) -> Outcome:
    """Hypervolume of the feasible merges that one search has evaluated, and their number."""
    name, told = SEARCHES[label]
    landscape = Limited(seed)
    settings: dict[str, Any] = {}
    if method_class(name).uses_references:
        corners = (np.zeros(LAYERS), np.ones(LAYERS))
        settings["ends"] = tuple(tuple(landscape.true(x)[: 2 + told].tolist()) for x in corners)
    search = create(
        name,
        LAYERS,
        constraints=told,
        seed=seed,
        budget=BUDGET,
        initial=INITIAL,
        workers=WORKERS,
        **settings,
    )
    flying: list[Array] = []
    feasible = []
    while not search.exhausted:
        flying += search.ask(WORKERS - len(flying), flying)
        x = flying.pop(0)
        values, variance = landscape.measured(x)
        search.tell(x, values[: 2 + told], variance[: 2 + told])
        *objectives, margin = landscape.true(x)
        if margin >= 0.0:
            feasible.append(objectives)
    return (hypervolume(feasible, (-0.2, -0.2)) if feasible else 0.0), len(feasible)


if __name__ == "__main__":
    main(__doc__, SEARCHES, campaign, ("search", "hypervolume", f"feasible of {BUDGET}"))
