"""Compare search methods on synthetic merge landscapes, on paired seeds.

    python benchmarks/search_quality.py --methods ap-bmm ap-bmm-plus qnehvi --seeds 20

Every method gets the same landscape and seed, 4 simulated workers whose evaluations take the
longer the more tokens a merge generates, and 8 + 32 evaluations. Printed for each method: the
mean of each metric, and its mean difference from the first method with a 95 % interval (Student's
t over the pairs). A method may carry settings: `ap-bmm-plus:hedge=false`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

from apbmm_master.algorithms import Search, create
from apbmm_master.pareto import contributions, front, hypervolume, spacing
from merge_landscapes import FAMILIES, Landscape, Measured

Array = npt.NDArray[np.float64]
REFERENCE = (-0.2, -0.2)
WORKERS, INITIAL = 4, 8


@dataclass(frozen=True)
class Campaign:
    """One run to make."""

    method: str
    family: str
    importance: str
    seed: int
    budget: int


@dataclass(frozen=True)
class Outcome:
    """What one run reached. Hypervolumes at (-0.2, -0.2); times in simulated hours."""

    observed_hv: float
    true_hv: float
    trajectory: float
    spacing: float
    front_size: float
    hours: float
    load: float
    cpu_seconds: float
    points: tuple[tuple[float, float], ...]


def simulate(campaign: Campaign) -> Outcome:
    """Run one campaign with simulated workers."""
    landscape = Landscape(campaign.family, campaign.seed)
    search = build(campaign, landscape)
    start = time.process_time()
    finished, busy, begun, end = fly(search, landscape)
    cpu = time.process_time() - start
    observed = np.array([m.observed for m in finished])
    true = np.array([m.true for m in finished])
    curve = [hypervolume(observed[: k + 1], REFERENCE) for k in range(INITIAL, len(observed))]
    return Outcome(
        observed_hv=hypervolume(observed, REFERENCE),
        true_hv=hypervolume(true, REFERENCE),
        trajectory=float(np.mean(curve)),
        spacing=spacing(observed),
        front_size=float(len(front(observed))),
        hours=(end - begun) / 3600.0,
        load=busy / (WORKERS * (end - begun)),
        cpu_seconds=cpu,
        points=tuple((float(a), float(b)) for a, b in observed),
    )


def build(campaign: Campaign, landscape: Landscape) -> Search:
    """The search a campaign names, with the settings after its colon."""
    name, _, settings = campaign.method.partition(":")
    pairs = dict(part.split("=") for part in settings.split(",") if part)
    return create(
        name,
        landscape.layers,
        seed=campaign.seed,
        budget=campaign.budget,
        initial=INITIAL,
        workers=WORKERS,
        importance=landscape.importance(campaign.importance),
        **{key: json.loads(value) for key, value in pairs.items()},
    )


def fly(search: Search, landscape: Landscape) -> tuple[list[Measured], float, float, float]:
    """Drive the search to its end: results in order, busy seconds, first and last moment.

    The window for load and hours runs from the first dispatch after the initial design.
    """
    clock, begun, busy, number = 0.0, math.nan, 0.0, 0
    flying: list[tuple[float, int, Array, Measured]] = []
    finished: list[Measured] = []
    while not search.exhausted:
        for x in search.ask(WORKERS - len(flying), pending=[entry[2] for entry in flying]):
            measured = landscape.measure(x)
            if number >= INITIAL:
                begun = clock if math.isnan(begun) else begun
                busy += measured.seconds
            heapq.heappush(flying, (clock + measured.seconds, number, x, measured))
            number += 1
        clock, _, x, measured = heapq.heappop(flying)
        search.tell(x, measured.observed)
        finished.append(measured)
    return finished, busy, begun, clock


METRICS = ("observed_hv", "true_hv", "trajectory", "spacing", "front_size", "hours", "load")


def report(results: dict[Campaign, Outcome], methods: list[str]) -> str:
    """The table: for each importance, methods by metrics, and differences from the first."""
    lines = []
    for kind in sorted({c.importance for c in results}):
        chosen = {c: o for c, o in results.items() if c.importance == kind}
        pairs = sorted({(c.family, c.seed) for c in chosen})
        lines.append(f"\n## importance: {kind}, {len(pairs)} paired runs")
        lines.append(f"{'method':34}" + "".join(f"{m:>13}" for m in (*METRICS, "contrib", "cpu s")))
        table = {method: collect(chosen, method, pairs) for method in methods}
        shares = pooled_contributions(chosen, methods, pairs)
        for method in methods:
            means = "".join(f"{table[method][m].mean():13.4f}" for m in METRICS)
            cpu = table[method]["cpu_seconds"].mean()
            lines.append(f"{method:34}{means}{shares[method]:13.2f}{cpu:13.1f}")
        lines += differences(table, methods)
    return "\n".join(lines)


def collect(
    results: dict[Campaign, Outcome], method: str, pairs: list[tuple[str, int]]
) -> dict[str, Array]:
    """Each metric of a method as an array over the pairs."""
    by_pair = {(c.family, c.seed): o for c, o in results.items() if c.method == method}
    names = (*METRICS, "cpu_seconds")
    return {m: np.array([getattr(by_pair[pair], m) for pair in pairs]) for m in names}


def pooled_contributions(
    results: dict[Campaign, Outcome], methods: list[str], pairs: list[tuple[str, int]]
) -> dict[str, float]:
    """Mean share of the front pooled over the methods, by pair."""
    shares: dict[str, list[float]] = {method: [] for method in methods}
    for pair in pairs:
        outcomes = {c.method: o for c, o in results.items() if (c.family, c.seed) == pair}
        counts = contributions([np.array(outcomes[method].points) for method in methods])
        for method, count in zip(methods, counts, strict=True):
            shares[method].append(count / sum(counts))
    return {method: float(np.mean(values)) for method, values in shares.items()}


def differences(table: dict[str, dict[str, Array]], methods: list[str]) -> list[str]:
    """Mean paired difference from the first method, with 95 % interval and wins."""
    first = methods[0]
    lines = [f"minus {first}:"] if len(methods) > 1 else []
    for method in methods[1:]:
        for metric in ("true_hv", "observed_hv", "trajectory", "hours", "load"):
            delta = table[method][metric] - table[first][metric]
            count = len(delta)
            half = student_t.ppf(0.975, count - 1) * delta.std(ddof=1) / math.sqrt(count)
            lines.append(
                f"  {method:32} {metric:12} {delta.mean():+.4f} +- {half:.4f}   "
                f"higher in {int((delta > 0).sum())} of {count}"
            )
    return lines


def main() -> None:
    """Run the campaigns that the command line names and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["ap-bmm", "ap-bmm-plus", "qnehvi"])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--importance", nargs="+", default=["informative"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", type=int, default=40)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="append every outcome as a JSON line")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    campaigns = [
        Campaign(method, family, importance, seed, options.budget)
        for seed, family, importance, method in product(
            seeds, options.families, options.importance, options.methods
        )
    ]
    results: dict[Campaign, Outcome] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        for campaign, outcome in zip(campaigns, pool.map(simulate, campaigns), strict=True):
            results[campaign] = outcome
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps({**asdict(campaign), **asdict(outcome)}) + "\n")
            print(f"{len(results)}/{len(campaigns)} {campaign.method}", file=sys.stderr, flush=True)
    print(report(results, options.methods))


if __name__ == "__main__":
    main()
