"""What a second lease in each worker's hand would cost the search, on synthetic merge landscapes.

    python -m benchmarks.search.leases_in_hand [--seeds 20] [--workers 1 4] [--out runs.jsonl]

With a second lease the next load begins while the last report is made, but each proposal is made
before one further result of every worker is known. Campaigns of 8 + 32 evaluations by `ap-bmm-plus`
with one and with two leases for each worker are compared on the same landscapes and seeds, by
noise-free hypervolume. The loss is also given as evaluations: by how many fewer than all of them
one lease reaches the mean hypervolume that two leases reach at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from apbmm_master.search.pareto import hypervolume
from benchmarks.search.campaigns import BUDGET, INITIAL, REFERENCE, Campaign, Outcome
from benchmarks.search.merge_landscapes import FAMILIES, KINDS
from benchmarks.search.quality import run_missing
from benchmarks.tables import command_line, half_width, made_by, markdown

METHOD = "ap-bmm-plus@binomial"
"""As in a run: it is told the noise of the questions."""
LEASES = (1, 2)
HEAD = (
    "workers",
    "pending at a proposal with one lease, two",
    "pairs",
    "hypervolume with one lease",
    "two",
    "difference",
    "difference of the trajectory",
    "evaluations lost",
)


def planned(options: argparse.Namespace) -> list[Campaign]:
    """All campaigns, seed by seed, so that an early stop leaves whole pairs."""
    return [
        Campaign(
            METHOD,
            FAMILIES[seed % len(FAMILIES)],
            KINDS[0],
            seed,
            workers=workers,
            leases=leases,
        )
        for seed, workers, leases in product(range(options.seeds), options.workers, LEASES)
    ]


def compared(workers: int, one: Sequence[Outcome], two: Sequence[Outcome]) -> list[str]:
    """A row of the table: the outcomes with one lease and, in the same order, with two."""
    cells = [f"{workers}", f"{workers - 1}, {2 * workers - 1}", f"{len(one)}"]
    cells += [f"{np.mean([outcome.true_hv for outcome in found]):.3f}" for found in (one, two)]
    for metric in ("true_hv", "trajectory"):
        pairs = zip(one, two, strict=True)
        delta = np.array([getattr(b, metric) - getattr(a, metric) for a, b in pairs])
        cells.append(f"{delta.mean():+.3f} ± {half_width(delta):.3f}")
    return [*cells, f"{evaluations_lost(one, two):.1f} of {BUDGET}"]


def evaluations_lost(one: Sequence[Outcome], two: Sequence[Outcome]) -> float:
    """By how many fewer evaluations one lease reaches the mean hypervolume that two end with."""
    counts = np.arange(INITIAL, BUDGET + 1)
    curve = [np.mean([hypervolume(o.points[:n], REFERENCE) for o in one]) for n in counts]
    return BUDGET - float(np.interp(np.mean([o.true_hv for o in two]), curve, counts))


def main() -> None:
    """Run the campaigns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="append every outcome as a JSON line")
    parser.add_argument("--no-run", action="store_true", help="report what --out has, run nothing")
    options = parser.parse_args()
    results = run_missing(planned(options), options)
    rows: list[Sequence[str]] = [HEAD]
    for workers in options.workers:
        found = [
            {c.seed: o for c, o in results.items() if (c.workers, c.leases) == (workers, leases)}
            for leases in LEASES
        ]
        seeds = sorted(set.intersection(*map(set, found)))
        rows.append(compared(workers, *([outcomes[seed] for seed in seeds] for outcomes in found)))
    print(made_by(command_line()))
    print(markdown(rows))


if __name__ == "__main__":
    main()
