"""What measuring merges in steps saves, at the paper's scale, on paired seeds in simulated time.

    python -m benchmarks.partial_answers.evaluation_cost --out runs.jsonl --report table.md

Answers, engine and clock are simulated (`simulated_answers`), the search is a fast stand-in for
`ap-bmm-plus` (`fast_search`), the estimates and the choices are the product's own
(`search.partial_answers`: `outcome_estimates`, `steps`). Seed i has family i modulo the number of
families. For each seed and noise, 40 full evaluations come first; what they generate is the unit of
cost. Every rule then gets a share of it (`--shares`) and recommends the front of the merges that it
has measured in full. The two references are measured in full in any case and not counted.
Campaigns whose outcome is in `--out` are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.partial_answers.simulated_answers import FAMILIES
from benchmarks.partial_answers.stepped_campaigns import RULES, Campaign, Outcome, Simulation
from benchmarks.tables import command_line, half_width, made_by, markdown

Array = npt.NDArray[np.float64]
Results = dict[Campaign, Outcome]
WHOLE = "whole"


def main() -> None:
    """Run the campaigns that the command line names and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--noise", nargs="+", type=float, default=[1.0, 0.25])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5])
    parser.add_argument("--lanes", type=int, default=12, help="answers that run at once")
    parser.add_argument("--dimensions", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=14)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="append every outcome as a JSON line")
    parser.add_argument("--report", type=Path, help="write the table there instead of printing it")
    parser.add_argument("--no-run", action="store_true", help="report what --out has, run nothing")
    options = parser.parse_args()
    results = completed(options.out)
    if not options.no_run:
        run_missing(options, results)
    text = report(results, command_line())
    if options.report:
        options.report.write_text(text)
    else:
        print(text)


def run_missing(options: argparse.Namespace, results: Results) -> None:
    """Run the campaigns that `results` lacks, and add them to it and to `--out`."""
    for campaign in planned(options):
        if campaign in results:
            continue
        first = unit_of(campaign)
        budget = None if campaign == first else campaign.share * results[first].tokens
        results[campaign] = Simulation(campaign, budget).run()
        if options.out:
            entry = {"campaign": asdict(campaign), "outcome": asdict(results[campaign])}
            with options.out.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        print(f"{campaign.seed} {campaign.rule}", file=sys.stderr, flush=True)


def planned(options: argparse.Namespace) -> Iterator[Campaign]:
    """All campaigns, seed by seed, so that an early stop leaves whole pairs; the unit first."""
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        family = options.families[seed % len(options.families)]
        for noise in options.noise:
            rest = (family, seed, noise)
            size = (options.lanes, options.dimensions)
            yield Campaign(WHOLE, *rest, 1.0, *size)
            for share in options.shares:
                for rule in options.rules:
                    if (rule, share) != (WHOLE, 1.0):
                        yield Campaign(rule, *rest, share, *size)


def unit_of(campaign: Campaign) -> Campaign:
    """The 40 full evaluations whose cost is the unit of this campaign's."""
    return Campaign(
        WHOLE,
        campaign.family,
        campaign.seed,
        campaign.noise,
        1.0,
        campaign.lanes,
        campaign.dimensions,
    )


def completed(path: Path | None) -> Results:
    """The outcomes in the file of an earlier run."""
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {Campaign(**line["campaign"]): Outcome(**line["outcome"]) for line in lines}


def report(results: Results, command: str) -> str:
    """The document: for each noise and number of answers at once, a table of all rules."""
    text = made_by(command)
    kinds = sorted({(c.noise, c.lanes, c.dimensions) for c in results}, reverse=True)
    for noise, lanes, dimensions in kinds:
        found = {
            c: o
            for c, o in results.items()
            if (c.noise, c.lanes, c.dimensions) == (noise, lanes, dimensions)
        }
        text += f"\n## Noise {noise:g}, {lanes} answers at once, D = {dimensions}\n\n{table(found)}"
    return text


def table(results: Results) -> str:
    """Means of each rule and share, with the paired difference from 40 full evaluations."""
    rows = [
        [
            "rule", "share", "runs", "hypervolume", "minus all in full", "as measured",
            "minus all in full", "tokens", "GPU-hours", "hours", "vectors", "full", "front",
            "80 %", "95 %",
        ]
    ]  # fmt: skip
    for rule, share in dict.fromkeys((c.rule, c.share) for c in results):
        pairs = [
            (outcome, results[unit_of(c)])
            for c, outcome in results.items()
            if (c.rule, c.share) == (rule, share)
        ]
        rows.append([rule, f"{share:g}", str(len(pairs)), *_cells(pairs)])
    return markdown(rows)


def _cells(pairs: list[tuple[Outcome, Outcome]]) -> list[str]:
    cells = []
    for name in ("true_hv", "measured_hv"):
        values = np.array([[getattr(o, name) for o in pair] for pair in pairs])
        delta = values[:, 0] - values[:, 1]
        width = half_width(delta) if len(delta) > 1 else float("nan")
        cells += [f"{values[:, 0].mean():.3f}", f"{delta.mean():+.3f} ± {width:.3f}"]
    for name in ("tokens", "gpu_hours", "hours"):
        ratios = [getattr(o, name) / getattr(unit, name) for o, unit in pairs]
        cells.append(f"{np.mean(ratios):.2f}")
    for name in ("vectors", "full", "front"):
        cells.append(f"{np.mean([getattr(o, name) for o, _ in pairs]):.1f}")
    errors = np.abs([error for o, _ in pairs for error in o.errors]).reshape(-1, 2)
    for bound in (1.2816, 1.96):
        inside = (errors <= bound).mean(axis=0) if len(errors) else ()
        cells.append(" / ".join(f"{100 * share:.0f}" for share in inside))
    return cells


if __name__ == "__main__":
    main()
