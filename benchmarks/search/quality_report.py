"""The tables of `quality.py`, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from apbmm_master.search.pareto import contributions
from benchmarks.search.campaigns import Campaign, Outcome
from benchmarks.tables import half_width, made_by, markdown

Array = npt.NDArray[np.float64]
Pair = tuple[str, int]
Table = Mapping[str, Mapping[Pair, Outcome]]
METRICS = {
    "true_hv": "hypervolume",
    "trajectory": "trajectory",
    "observed_hv": "observed hypervolume",
    "spacing": "Spacing",
    "front_size": "front",
    "hours": "hours",
    "load": "load",
    "cpu_seconds": "CPU seconds",
}
COMPARED = ("true_hv", "trajectory", "spacing", "hours", "load")
PREAMBLE = """\
D = 36, 4 simulated workers, 8 + {searched} evaluations. The hypervolume is that of the noise-free
objectives of all evaluated merges at (-0.2, -0.2); the trajectory is its mean over the {searched}
evaluations after the initial design. Spacing and front are those of the observed objectives.
Contribution is a method's share of the front pooled over all methods of the table, by noise-free
objectives, over the pairs that all of them have run. Hours and load are simulated, from the first
dispatch after the initial design to the last result. Methods that do not use the importance have
the same runs for both kinds. Model-level grids are left out: the landscapes do not describe other
merge methods, and task arithmetic of two models is the uniform line. Differences are from {first},
on the same landscape and seed, with a 95 % interval (Student's t).
"""


def report(
    results: Mapping[Campaign, Outcome],
    methods: Sequence[str],
    kinds: Sequence[str],
    command: str,
    searched: int,
) -> str:
    """The document: for each kind of importance, means and differences from the first method.

    `searched` counts the evaluations after the initial design.
    """
    text = made_by(command) + "\n" + PREAMBLE.format(first=methods[0], searched=searched)
    for kind in kinds:
        table = {method: outcomes(results, method, kind) for method in methods}
        parts = (means(table), differences(table), by_family(table))
        text += f"\n## Importance: {kind}\n\n" + "\n".join(parts)
    return text


def outcomes(results: Mapping[Campaign, Outcome], method: str, kind: str) -> dict[Pair, Outcome]:
    """The outcomes of a method by pair, those without importance included."""
    return {
        (campaign.family, campaign.seed): outcome
        for campaign, outcome in results.items()
        if campaign.method == method and campaign.importance in (kind, None)
    }


def means(table: Table) -> str:
    """The mean of each metric over a method's runs, and its contribution to the pooled front."""
    shares = pooled_contributions(table)
    rows = [["method", "runs", *METRICS.values(), "contribution"]]
    for method, found in table.items():
        values = [column(found, list(found), metric).mean() for metric in METRICS]
        cells = [f"{value:.3f}" for value in values]
        rows.append([f"`{method}`", str(len(found)), *cells, f"{shares[method]:.2f}"])
    return markdown(rows)


def differences(table: Table) -> str:
    """Mean paired difference from the first method, with 95 % interval, and wins."""
    first, *others = table
    rows = [[f"minus `{first}`", *(METRICS[m] for m in COMPARED), "hypervolume higher in"]]
    for method in others:
        pairs = [pair for pair in table[method] if pair in table[first]]
        deltas = {
            metric: column(table[method], pairs, metric) - column(table[first], pairs, metric)
            for metric in COMPARED
        }
        cells = [f"{delta.mean():+.3f} ± {half_width(delta):.3f}" for delta in deltas.values()]
        wins = int((deltas["true_hv"] > 0.0).sum())
        rows.append([f"`{method}`", *cells, f"{wins} of {len(pairs)}"])
    return markdown(rows)


def by_family(table: Table) -> str:
    """Mean noise-free hypervolume in each family."""
    families = sorted({family for found in table.values() for family, _ in found})
    rows = [["hypervolume", *families]]
    for method, found in table.items():
        groups = ([pair for pair in found if pair[0] == family] for family in families)
        cells = [f"{column(found, group, 'true_hv').mean():.3f}" for group in groups]
        rows.append([f"`{method}`", *cells])
    return markdown(rows)


def pooled_contributions(table: Table) -> dict[str, float]:
    """Mean share of the front pooled over the methods, over the pairs that all have run."""
    pairs = set.intersection(*(set(found) for found in table.values()))
    shares: dict[str, list[float]] = {method: [] for method in table}
    for pair in pairs:
        counts = contributions([np.array(found[pair].points) for found in table.values()])
        for method, count in zip(table, counts, strict=True):
            shares[method].append(count / sum(counts))
    return {method: float(np.mean(values)) for method, values in shares.items()}


def column(found: Mapping[Pair, Outcome], pairs: Sequence[Pair], metric: str) -> Array:
    """One metric as an array over the pairs."""
    return np.array([getattr(found[pair], metric) for pair in pairs])
