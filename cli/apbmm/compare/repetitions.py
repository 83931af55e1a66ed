"""Runs that differ in their seed alone: means with intervals, and paired tests.

Runs with another seed are repetitions of an experiment. Runs of one group have the same method,
with the same settings and budget. Only finished runs count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from apbmm.compare.rows import Row
from apbmm.results.figures import LEVEL
from apbmm.results.run_results import RunResults


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over runs with its interval at `LEVEL` by Student's t; None for a single run."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The finished runs of one method; None for a number that no run has."""

    name: str
    seeds: tuple[int, ...]
    hypervolume: Mean | None
    spacing: Mean | None
    front: Mean | None
    load_rate: Mean | None
    seconds: Mean | None


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Hypervolume of ``second`` minus ``first``, seed by seed.

    ``p`` is that of the two-sided Wilcoxon signed-rank test (F. Wilcoxon, 1945); None for fewer
    than two seeds.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    difference: Mean
    p: float | None


@dataclass(frozen=True, slots=True)
class Repetitions:
    """The groups in the order of their first runs, and every other one against the first."""

    groups: tuple[Group, ...] = ()
    tests: tuple[PairedTest, ...] = ()


Member = tuple[RunResults, Row]


def repetitions(runs: Sequence[RunResults], rows: Sequence[Row]) -> Repetitions:
    """Groups of ``runs``, whose ``rows`` are their lines of Table II; empty without repetitions."""
    found: dict[str, list[Member]] = {}
    for name, run, row in zip(experiments(runs), runs, rows, strict=True):
        if row.state == "finished" and row.hypervolume is not None:
            found.setdefault(name, []).append((run, row))
    if all(len(_by_seed(members)) < 2 for members in found.values()):
        return Repetitions()
    groups = tuple(_group(name, members) for name, members in found.items())
    return Repetitions(groups, tuple(_tests(found)))


def experiments(runs: Sequence[RunResults]) -> list[str]:
    """What each run repeats: the name of its method, numbered where that was run in several ways.

    Two runs repeat one experiment where nothing but the seed differs.
    """
    keys = [(run.spec.algorithm.name, _experiment(run)) for run in runs]
    distinct = list(dict.fromkeys(keys))
    names: dict[tuple[str, str], str] = {}
    for method, _ in distinct:
        ways = [key for key in distinct if key[0] == method]
        names |= {
            key: f"{method} ({number})" if len(ways) > 1 else method
            for number, key in enumerate(ways, 1)
        }
    return [names[key] for key in keys]


def _experiment(run: RunResults) -> str:
    """Everything that runs of one group share, as text."""
    spec = run.spec.without_paths()
    del spec["budget"]["failures"], spec["budget"]["any_references"]
    return json.dumps([spec["algorithm"], spec["budget"], spec["merge"], spec["prior"]])


def _by_seed(members: Sequence[Member]) -> dict[int, float]:
    """Hypervolume of each seed; the mean where a seed was run several times."""
    volumes: dict[int, list[float]] = {}
    for run, row in members:
        if row.hypervolume is not None:
            volumes.setdefault(run.spec.seed, []).append(row.hypervolume)
    return {seed: fmean(each) for seed, each in volumes.items()}


def _group(name: str, members: Sequence[Member]) -> Group:
    def over(value: Callable[[Row], float | None]) -> Mean | None:
        known = [number for _, row in members if (number := value(row)) is not None]
        return mean(known) if known else None

    return Group(
        name,
        tuple(run.spec.seed for run, _ in members),
        over(lambda row: row.hypervolume),
        over(lambda row: row.spacing),
        over(lambda row: row.front),
        over(lambda row: row.load_rate),
        over(lambda row: row.seconds),
    )


def _tests(named: dict[str, list[Member]]) -> list[PairedTest]:
    (first, base), *others = ((name, _by_seed(members)) for name, members in named.items())
    tests = []
    for name, volumes in others:
        seeds = sorted(base.keys() & volumes.keys())
        if seeds:
            differences = [volumes[seed] - base[seed] for seed in seeds]
            found = PairedTest(first, name, tuple(seeds), mean(differences), wilcoxon(differences))
            tests.append(found)
    return tests


def mean(values: Sequence[float]) -> Mean:
    """The mean of at least one value, with its interval."""
    middle = fmean(values)
    if len(values) < 2:
        return Mean(middle)
    from scipy.stats import t

    quantile = float(t.ppf((1 + LEVEL) / 2, len(values) - 1))
    half = quantile * stdev(values) / math.sqrt(len(values))
    return Mean(middle, middle - half, middle + half)


def wilcoxon(differences: Sequence[float]) -> float | None:
    """Two-sided p of the signed-rank test; equal pairs are left out, and 1 where all are equal."""
    if len(differences) < 2:
        return None
    unequal = [difference for difference in differences if difference]
    if not unequal:
        return 1.0
    from scipy.stats import wilcoxon as signed_rank_test

    return float(signed_rank_test(unequal).pvalue)
