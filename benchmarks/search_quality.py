"""Compare search methods on synthetic merge landscapes, on paired seeds.

    python benchmarks/search_quality.py --out runs.jsonl --report table.md

Every method gets the same landscape and seed, 4 simulated workers whose evaluations take the
longer the more tokens a merge generates, and 8 + 32 evaluations. Seed i runs on family i modulo
the number of families. Reported for each kind of importance: the mean of each metric, and its mean
difference from the first method with a 95 % interval (Student's t over the pairs). A method may
carry settings: `ap-bmm-plus:diagonal=false`, and after those the noise that it is told of:
`ap-bmm-plus@told` (see `merge_landscapes.Measured`). Methods that take no notice of the
importance run once for all its kinds. Outcomes already in `--out` are not run again.
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

from apbmm_master.search.methods import Search, create
from apbmm_master.search.pareto import front, hypervolume, spacing
from merge_landscapes import FAMILIES, KINDS, QUESTIONS, Landscape, Measured
from quality_report import report

Array = npt.NDArray[np.float64]
REFERENCE = (-0.2, -0.2)
WORKERS, INITIAL, BUDGET = 4, 8, 40
WITHOUT_IMPORTANCE = (
    "ap-bmm-no-prior",
    "qnehvi",
    "momm",
    "moead-cmaes",
    "sobol",
    "uniform",
)
METHODS = (
    "ap-bmm",
    "ap-bmm-plus",
    "qnehvi",
    "sip-bmm",
    "momm",
    "moead-cmaes",
    "sobol",
    "uniform",
    "ap-bmm-no-prior",
    "ap-bmm-no-pending",
    "ap-bmm-synchronous",
)


@dataclass(frozen=True)
class Campaign:
    """One run to make; `importance` is None for a method that takes no notice of it.

    `budget` counts evaluations, `questions` those of the benchmark; `fresh`: every merge is asked
    others.
    """

    method: str
    family: str
    importance: str | None
    seed: int
    fresh: bool = False
    budget: int = BUDGET
    questions: int = QUESTIONS


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
    landscape = landscape_of(campaign)
    search = build(campaign, landscape)
    start = time.process_time()
    finished, busy, begun, end = fly(search, landscape, campaign.method.partition("@")[2])
    cpu = time.process_time() - start
    observed = np.array([m.observed for m in finished])
    true = np.array([m.true for m in finished])
    curve = [hypervolume(true[: k + 1], REFERENCE) for k in range(INITIAL, len(true))]
    return Outcome(
        observed_hv=hypervolume(observed, REFERENCE),
        true_hv=hypervolume(true, REFERENCE),
        trajectory=float(np.mean(curve)),
        spacing=spacing(observed),
        front_size=float(len(front(observed))),
        hours=(end - begun) / 3600.0,
        load=busy / (WORKERS * (end - begun)),
        cpu_seconds=cpu,
        points=tuple((round(float(a), 5), round(float(b), 5)) for a, b in true),
    )


def landscape_of(campaign: Campaign) -> Landscape:
    """The landscape that a campaign searches."""
    return Landscape(
        campaign.family, campaign.seed, questions=campaign.questions, fresh=campaign.fresh
    )


def build(campaign: Campaign, landscape: Landscape) -> Search:
    """The search a campaign names, with the settings after its colon."""
    name, _, settings = campaign.method.partition("@")[0].partition(":")
    pairs = dict(part.split("=") for part in settings.split(",") if part)
    kind = campaign.importance
    return create(
        name,
        landscape.layers,
        seed=campaign.seed,
        budget=campaign.budget,
        initial=INITIAL,
        workers=WORKERS,
        importance=None if kind is None else landscape.importance(kind),
        **{key: json.loads(value) for key, value in pairs.items()},
    )


def fly(
    search: Search, landscape: Landscape, told: str = ""
) -> tuple[list[Measured], float, float, float]:
    """Drive the search to its end: results in order, busy seconds, first and last moment.

    The window for load and hours runs from the first dispatch after the initial design. `told`
    names the variance of `Measured` that the search is told, if any.
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
        search.tell(x, measured.observed, getattr(measured, told) if told else None)
        finished.append(measured)
    return finished, busy, begun, clock


def planned(options: argparse.Namespace) -> list[Campaign]:
    """Every campaign of the command line, the pairs of one seed together."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    found: dict[Campaign, None] = {}
    for seed, kind, method in product(seeds, options.importance, options.methods):
        family = options.families[seed % len(options.families)]
        blind = method.partition(":")[0] in WITHOUT_IMPORTANCE
        seen = None if blind else kind
        settings = (options.fresh, options.budget, options.questions)
        found[Campaign(method, family, seen, seed, *settings)] = None
    return list(found)


def completed(path: Path | None) -> dict[Campaign, Outcome]:
    """The outcomes in the file of an earlier run."""
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {Campaign(**line["campaign"]): Outcome(**line["outcome"]) for line in lines}


def run_missing(campaigns: list[Campaign], options: argparse.Namespace) -> dict[Campaign, Outcome]:
    """The outcome of every campaign, run unless an earlier run of the script has it."""
    results = completed(options.out)
    missing = [c for c in campaigns if c not in results and not options.no_run]
    with ProcessPoolExecutor(options.processes) as pool:
        for done, (campaign, outcome) in enumerate(
            zip(missing, pool.map(simulate, missing), strict=True), start=1
        ):
            results[campaign] = outcome
            if options.out:
                entry = {"campaign": asdict(campaign), "outcome": asdict(outcome)}
                with options.out.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
            print(f"{done}/{len(missing)} {campaign.method}", file=sys.stderr, flush=True)
    return {campaign: results[campaign] for campaign in campaigns if campaign in results}


def main() -> None:
    """Run the campaigns that the command line names and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--importance", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--fresh", action="store_true", help="other questions for every merge")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="append every outcome as a JSON line")
    parser.add_argument("--report", type=Path, help="write the table there instead of printing it")
    parser.add_argument("--no-run", action="store_true", help="report what --out has, run nothing")
    options = parser.parse_args()
    campaigns = planned(options)
    results = run_missing(campaigns, options)
    command = " ".join(["python", *(word for word in sys.argv if word != "--no-run")])
    text = report(results, options.methods, options.importance, command, options.budget - INITIAL)
    if options.report:
        options.report.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
