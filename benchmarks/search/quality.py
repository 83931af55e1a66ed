"""Compare search methods on synthetic merge landscapes, on paired seeds.

    python -m benchmarks.search.quality --out runs.jsonl --report table.md

A campaign is one search of 8 + 32 evaluations by 4 simulated workers. The longer the answers of a
merge, the longer its evaluation takes. All methods run on the same landscapes and seeds; seed i
has family i modulo the number of families. The report has two tables for each kind of importance:
the mean of each metric, and its mean difference from the first method with a 95 % interval
(Student's t over the pairs).

A method may carry settings, as in `ap-bmm-plus:diagonal=false`, and after them the noise variance
that it is told, as in `ap-bmm-plus@told` (see `merge_landscapes.Measured`). Methods that do not use
the importance run once for both kinds. Campaigns whose outcome is in `--out` are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import product
from pathlib import Path

from apbmm_master.search.methods import method_class
from benchmarks.search.campaigns import BUDGET, INITIAL, Campaign, Outcome, simulate
from benchmarks.search.merge_landscapes import FAMILIES, KINDS, PAPER_FAMILIES, QUESTIONS
from benchmarks.search.quality_report import report
from benchmarks.tables import command_line

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


def planned(options: argparse.Namespace) -> list[Campaign]:
    """All campaigns of the command line, seed by seed, so that an early stop leaves whole pairs."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    found: dict[Campaign, None] = {}
    for seed, kind, method in product(seeds, options.importance, options.methods):
        family = options.families[seed % len(options.families)]
        name = method.partition("@")[0].partition(":")[0]
        seen = kind if method_class(name).uses_importance else None
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
    """The outcome of each campaign; those that `--out` does not have are run and added to it."""
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
    families = (*FAMILIES, *PAPER_FAMILIES)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=families)
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
    searched = options.budget - INITIAL
    text = report(results, options.methods, options.importance, command_line(), searched)
    if options.report:
        options.report.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
