"""Campaigns compared on paired seeds: those that are missing are run, and all make one table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.tables import half_width, markdown

Found = Mapping[tuple[str, int], tuple[float, ...]]
"""The outcome of each campaign, by name and seed; its hypervolume comes first."""


def main(
    description: str | None,
    names: Iterable[str],
    campaign: Callable[[str, int], tuple[float, ...]],
    columns: Sequence[str],
) -> None:
    """Run the campaigns that ``--out`` lacks, print the table and write it to ``--report``.

    ``columns`` name what stands in the first column, and the numbers of an outcome.
    """
    known = list(names)
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=known, default=known)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="outcomes, a JSON line each")
    parser.add_argument("--report", type=Path, help="where to write the table")
    options = parser.parse_args()
    found = _kept(options.out)
    jobs = [(name, seed) for seed in range(options.seeds) for name in options.only]
    jobs = [job for job in jobs if job not in found]
    with ProcessPoolExecutor(options.processes) as pool:
        outcomes = pool.map(campaign, *zip(*jobs, strict=True)) if jobs else ()
        for (name, seed), outcome in zip(jobs, outcomes, strict=True):
            found[name, seed] = outcome
            row = {"name": name, "seed": seed, "outcome": outcome}
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    text = table(known, found, columns)
    print(text)
    if options.report:
        options.report.write_text(text, encoding="utf-8")


def table(names: Sequence[str], found: Found, columns: Sequence[str]) -> str:
    """A row for each name that was run: its mean outcome over the seeds that all of these have.

    The last column is the hypervolume of the first name minus that of the row, with a 95 % interval
    (Student's t over the pairs).
    """
    run = [name for name in names if any(name == each for each, _ in found)]
    seeds = sorted({seed for _, seed in found})
    whole = [seed for seed in seeds if all((name, seed) in found for name in run)]
    own = {name: np.array([found[name, seed] for seed in whole]) for name in run}
    rows = [[*columns, f"{run[0]} minus it"]]
    for name in run:
        differences = own[run[0]][:, 0] - own[name][:, 0]
        against = f"{differences.mean():+.3f} ± {half_width(differences):.3f}"
        means = [f"{mean:.3f}" for mean in own[name].mean(axis=0)]
        rows.append([name, *means, "" if name == run[0] else against])
    return f"{len(whole)} paired seeds\n\n" + markdown(rows)


def _kept(out: Path) -> dict[tuple[str, int], tuple[float, ...]]:
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["name"], row["seed"]): tuple(row["outcome"]) for row in rows}
