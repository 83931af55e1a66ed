"""Does a search find more where it is told of a constraint? Synthetic merges, paired seeds.

    python benchmarks/constrained_search.py --seeds 10 --out runs.jsonl --report table.md

Two objectives are those of an additive landscape of 12 layers. The accuracy on another landscape
has a lower limit, which three of four vectors drawn uniformly break (`SHARE`). A campaign is a
search of 8 + 24 evaluations, four at a time. It ends with the hypervolume of the noise-free
objectives of its feasible merges, feasible by the noise-free accuracy, above (-0.2, -0.2), and with
the number of these. The blind search is told the objectives alone. The report has the mean of each
search, and the mean difference of the first from it with a 95 % interval (Student's t over the
pairs). Campaigns whose outcome is in `--out` are not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from apbmm_master.search.methods import create, method_class
from apbmm_master.search.pareto import hypervolume
from merge_landscapes import Landscape

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


def report(found: Mapping[tuple[str, int], Outcome]) -> str:
    """Three columns for each search, over the seeds that all searches have."""
    seeds = sorted({seed for _, seed in found})
    whole = [seed for seed in seeds if all((label, seed) in found for label in SEARCHES)]
    first, *_ = SEARCHES
    lines = [
        f"{len(whole)} paired seeds",
        "",
        f"| search | feasible of {BUDGET} | hypervolume | {first} minus it |",
        "|---|---|---|---|",
    ]
    for label in SEARCHES:
        own = np.array([found[label, seed] for seed in whole])
        differences = np.array([found[first, seed][0] for seed in whole]) - own[:, 0]
        half = student.ppf(0.975, len(whole) - 1) * differences.std(ddof=1) / len(whole) ** 0.5
        against = "" if label == first else f"{differences.mean():+.3f} ± {half:.3f}"
        volume, count = own.mean(axis=0)
        lines.append(f"| {label} | {count:.1f} | {volume:.3f} | {against} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True, help="outcomes, a JSON line each")
    parser.add_argument("--report", type=Path, help="where to write the table")
    options = parser.parse_args()
    found: dict[tuple[str, int], Outcome] = {}
    if options.out.exists():
        for line in options.out.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["search"], row["seed"]] = (row["hypervolume"], row["feasible"])
    for seed in range(options.seeds):
        for label in SEARCHES:
            if (label, seed) not in found:
                found[label, seed] = volume, count = campaign(label, seed)
                row = {"search": label, "seed": seed, "hypervolume": volume, "feasible": count}
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    text = report(found)
    print(text)
    if options.report:
        options.report.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
