"""The tables of `searches.py`, in Markdown, and its data in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import wilcoxon

from apbmm_master.search.pareto import contributions, front, hypervolume, spacing
from benchmarks.real_merges.evaluation_time import LANES
from benchmarks.real_merges.evaluations import Asked
from benchmarks.tables import half_width, made_by, markdown

Array = npt.NDArray[np.float64]
REFERENCE = (-0.2, -0.2)
INITIAL = 8
FIRST = "ap-bmm-plus"
COUNTS = (10, 15, 20, 25, 30, 35, 40)
PREAMBLE = """\
Real merges of the pair of run `{pair}` by vLLM on a CPU and EvalScope, {sample} questions of each
benchmark, campaigns of 8 + 32 evaluations (grids: 80), one after another; see
`benchmarks/real_merges/searches.py`. Hypervolume of the objectives of Eq. 2 as measured on these
questions, above (-0.2, -0.2); `trajectory` is its mean over the evaluations after the eighth.
`tokens` are all that a campaign generated, `GPU-hours` what a GPU that answers {lanes} questions at
once would take for answers 300 times as long (`evaluation_time`). Spacing and front (its size) are
those of all merges of a campaign. Contribution is a method's share of the front pooled over all
methods of the table. Confirmed is the hypervolume of a campaign's front when its merges answer
questions that the search did not ask. The merges of all campaigns together, {merges} of them, have
a hypervolume of {pooled:.3f}.

The first three tables are of the seeds of `{first}` and of the methods that have run all of
these. In the second each campaign of a seed ends when the cheapest of them has ended, by GPU-hours.

Differences are paired by seed, with 95 % intervals (Student's t), Wilcoxon's p and Holm's
correction over the table. At equal tokens and at equal GPU-hours: those of the cheaper campaign of
each pair. `{first}` reaches the other's final hypervolume with so many evaluations, and with such a
share of the other's GPU-hours (medians).
"""
SEEDLESS = 0
"""The seed of campaigns that have none: they are paired with every seed."""


@dataclass(frozen=True)
class Curve:
    """What a campaign reached.

    Its objectives (n, 2), the hypervolume after each evaluation (n,), all tokens generated and all
    GPU-hours used until then (n,), and the hypervolume of its front on further questions, if that
    was measured.
    """

    points: Array
    volumes: Array
    tokens: Array
    hours: Array
    confirmed: float | None = None

    @classmethod
    def of(cls, campaign: Mapping[str, Any], confirmed: Sequence[Sequence[float]] = ()) -> Curve:
        """The curve of a campaign as it is kept, and its front's objectives when confirmed."""
        points = np.array(campaign["y"])
        volumes = [hypervolume(points[: k + 1], REFERENCE) for k in range(len(points))]
        return cls(
            points,
            np.array(volumes),
            np.cumsum(campaign["tokens"]).astype(np.float64),
            np.cumsum(campaign["seconds"]) / 3600.0,
            hypervolume(np.array(confirmed), REFERENCE) if len(confirmed) else None,
        )

    @property
    def final(self) -> float:
        """The hypervolume at the end, 0 without any evaluation."""
        return float(self.volumes[-1]) if len(self.volumes) else 0.0

    @property
    def trajectory(self) -> float:
        """Mean hypervolume over the evaluations after the initial design."""
        later = self.volumes[INITIAL:]
        return float(later.mean()) if len(later) else self.final

    def until(self, spent: Array, limit: float) -> Curve:
        """Its evaluations that the limit is enough for, of which `spent` (n,) are used up by each.

        Its front is another one then, which was not confirmed.
        """
        count = int(np.searchsorted(spent, limit, side="right"))
        kept = self.points, self.volumes, self.tokens, self.hours
        points, volumes, tokens, hours = (each[:count] for each in kept)
        return Curve(points, volumes, tokens, hours)

    def reaches(self, volume: float) -> int | None:
        """After how many evaluations the hypervolume is at least this, if it ever is."""
        found = np.flatnonzero(self.volumes >= volume)
        return int(found[0]) + 1 if len(found) else None


Curves = dict[str, dict[int, Curve]]


def write_report(
    campaigns: Sequence[Mapping[str, Any]],
    confirmed: Sequence[Mapping[str, Any]],
    asked: Asked,
    out: Path,
    first: str = FIRST,
) -> None:
    """`OUT.md` with the tables, `OUT.json` with objectives and costs of every evaluation.

    `confirmed` holds the objectives of fronts on further questions, `asked` what was asked. The
    differences are those of `first` from the others.
    """
    curves = by_method(campaigns, confirmed)
    parts = [made_by(f"python -m benchmarks.real_merges.searches report STORE --out {out}")]
    every = np.concatenate([run.points for runs in curves.values() for run in runs.values()])
    parts.append(
        PREAMBLE.format(
            pair=asked.pair,
            sample=asked.sample or "all",
            merges=len(every),
            pooled=hypervolume(every, REFERENCE),
            first=first,
            lanes=LANES[-1],
        )
    )
    everywhere = complete(curves, first)
    parts += [means(everywhere), means(at_equal_hours(everywhere)), trajectories(everywhere)]
    parts.append(differences(curves, first))
    out.with_suffix(".md").write_text("\n".join(parts))
    names = ("method", "seed", "y", "tokens", "seconds")
    kept = [{name: campaign[name] for name in names} for campaign in campaigns]
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in kept)
    out.with_suffix(".json").write_text(f"[\n{lines}\n]\n")


def by_method(
    campaigns: Iterable[Mapping[str, Any]], confirmed: Sequence[Mapping[str, Any]] = ()
) -> Curves:
    """The curves of campaigns as they are kept, by method and seed."""
    again = {(each["method"], each["seed"]): each["y"] for each in confirmed}
    curves: Curves = {}
    for campaign in campaigns:
        method, seed = campaign["method"], campaign["seed"]
        curves.setdefault(method, {})[seed] = Curve.of(campaign, again.get((method, seed), ()))
    return curves


def complete(curves: Curves, first: str = FIRST) -> Curves:
    """The methods that have run all seeds of the first one, and those without seeds."""
    wanted = set(curves.get(first, {}))
    return {
        method: runs
        for method, runs in curves.items()
        if set(runs) == {SEEDLESS} or wanted <= set(runs)
    }


def of_seed(curves: Curves, seed: int) -> dict[str, Curve]:
    """The run of each method with this seed, or the only one of a method without seeds."""
    return {method: runs.get(seed) or runs[SEEDLESS] for method, runs in curves.items()}


def at_equal_hours(curves: Curves) -> Curves:
    """Of the seeds that all methods have: until the cheapest campaign of the seed has ended."""
    found: Curves = {method: {} for method in curves}
    for seed in common_seeds(curves):
        group = of_seed(curves, seed)
        least = min(float(run.hours[-1]) for run in group.values())
        for method, run in group.items():
            found[method][seed] = run.until(run.hours, least)
    return found


def means(curves: Curves) -> str:
    """The means of each method over the seeds that all of them have."""
    rows = [
        [
            "method", "runs", "evaluations", "hypervolume", "trajectory", "Spacing", "front",
            "contribution", "tokens", "GPU-hours", "confirmed",
        ]
    ]  # fmt: skip
    shares = contribution_shares(curves)
    for method, runs in by_hypervolume(curves).items():
        confirmed = [run.confirmed for run in runs if run.confirmed is not None]
        rows.append(
            [
                f"`{method}`",
                str(len(runs)),
                f"{np.mean([len(run.volumes) for run in runs]):.1f}",
                f"{np.mean([run.final for run in runs]):.3f}",
                f"{np.mean([run.trajectory for run in runs]):.3f}",
                f"{np.mean([spacing(run.points) for run in runs]):.3f}",
                f"{np.mean([len(front(run.points)) for run in runs]):.1f}",
                f"{shares[method]:.2f}",
                f"{np.mean([run.tokens[-1] for run in runs]):,.0f}",
                f"{np.mean([run.hours[-1] for run in runs]):.2f}",
                f"{np.mean(confirmed):.3f} ({len(confirmed)})" if confirmed else "",
            ]
        )
    return markdown(rows)


def trajectories(curves: Curves) -> str:
    """Mean hypervolume after so many evaluations, over the seeds that all methods have."""
    rows = [["hypervolume after", *(str(count) for count in COUNTS)]]
    for method, runs in by_hypervolume(curves).items():
        cells = [np.mean([run.volumes[:count][-1] for run in runs]) for count in COUNTS]
        rows.append([f"`{method}`", *(f"{cell:.3f}" for cell in cells)])
    return markdown(rows)


def common_seeds(curves: Curves) -> list[int]:
    """The seeds that all methods have that have seeds at all."""
    seeded = [set(runs) for runs in curves.values() if set(runs) != {SEEDLESS}]
    return sorted(set.intersection(*seeded)) if seeded else [SEEDLESS]


def by_hypervolume(curves: Curves) -> dict[str, list[Curve]]:
    """The runs of the common seeds, the method with the highest mean hypervolume first."""
    seeds = common_seeds(curves)
    found = {
        method: list(runs.values()) if set(runs) == {SEEDLESS} else [runs[seed] for seed in seeds]
        for method, runs in curves.items()
    }
    found = {method: runs for method, runs in found.items() if runs}
    final = {method: np.mean([run.final for run in runs]) for method, runs in found.items()}
    return {method: found[method] for method in sorted(found, key=lambda name: -final[name])}


def contribution_shares(curves: Curves) -> dict[str, float]:
    """Each method's share of the front of all methods, over the seeds that all of them have."""
    counts = np.zeros(len(curves))
    for seed in common_seeds(curves):
        counts += contributions([run.points for run in of_seed(curves, seed).values()])
    return dict(zip(curves, counts / max(counts.sum(), 1.0), strict=True))


def differences(curves: Curves, first: str) -> str:
    """Paired differences of the first method from each other one, positive where it is ahead."""
    head = [
        f"`{first}` minus", "pairs", "at equal evaluations", "p", "p (Holm)", "ahead in",
        "trajectory", "at equal tokens", "at equal GPU-hours", "reaches its end with",
        "of its GPU-hours", "confirmed",
    ]  # fmt: skip
    found = {method: pairs_of(curves, first, method) for method in curves if method != first}
    found = {method: pairs for method, pairs in found.items() if len(pairs) > 1}
    deltas = {method: np.array([a.final - b.final for a, b in pairs])
              for method, pairs in found.items()}  # fmt: skip
    p = {method: signed_rank(delta) for method, delta in deltas.items()}
    corrected = holm(p)
    rows = [head]
    for method, pairs in found.items():
        delta = deltas[method]
        trajectory = np.array([a.trajectory - b.trajectory for a, b in pairs])
        evaluations, share = reached(pairs)
        rows.append(
            [
                f"`{method}`", str(len(pairs)), interval(delta), f"{p[method]:.3f}",
                f"{corrected[method]:.3f}", f"{int((delta > 0).sum())}", interval(trajectory),
                interval(at_equal(pairs, attrgetter("tokens"))),
                interval(at_equal(pairs, attrgetter("hours"))),
                evaluations, share, confirmed_difference(pairs),
            ]
        )  # fmt: skip
    return markdown(rows) if len(rows) > 1 else "No method has two pairs yet: no differences.\n"


def at_equal(pairs: Sequence[tuple[Curve, Curve]], spent: Callable[[Curve], Array]) -> Array:
    """Differences (n,) when the cheaper curve of a pair has ended, by what a curve has `spent`."""
    found = []
    for pair in pairs:
        limit = min(spent(curve)[-1] for curve in pair)
        ours, theirs = (curve.until(spent(curve), limit) for curve in pair)
        found.append(ours.final - theirs.final)
    return np.array(found)


def reached(pairs: Sequence[tuple[Curve, Curve]]) -> tuple[str, str]:
    """With how many evaluations the other's end is reached, and what share of its GPU-hours."""
    counts = [ours.reaches(theirs.final) for ours, theirs in pairs]
    shares = [
        ours.hours[count - 1] / theirs.hours[-1] if count else np.inf
        for count, (ours, theirs) in zip(counts, pairs, strict=True)
    ]
    count, share = np.median([count or np.inf for count in counts]), np.median(shares)
    return f"{count:.0f}" if count < np.inf else "never", f"{share:.2f}" if share < np.inf else ""


def confirmed_difference(pairs: Sequence[tuple[Curve, Curve]]) -> str:
    """The difference on further questions, of the pairs where both were confirmed."""
    found = [
        ours.confirmed - theirs.confirmed
        for ours, theirs in pairs
        if ours.confirmed is not None and theirs.confirmed is not None
    ]
    return interval(np.array(found)) if len(found) > 1 else ""


def pairs_of(curves: Curves, first: str, method: str) -> list[tuple[Curve, Curve]]:
    """The runs of the first method and of another with the same seed."""
    ours, other = curves.get(first, {}), curves[method]
    if set(other) == {SEEDLESS}:
        return [(run, other[SEEDLESS]) for run in ours.values()]
    return [(run, other[seed]) for seed, run in ours.items() if seed in other]


def interval(delta: Array) -> str:
    """Mean and half the 95 % interval (Student's t)."""
    return f"{delta.mean():+.3f} ± {half_width(delta):.3f}"


def signed_rank(delta: Array) -> float:
    """Wilcoxon's two-sided p; 1 where there is no difference at all."""
    return float(wilcoxon(delta).pvalue) if np.any(delta != 0.0) else 1.0


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction for so many comparisons."""
    found: dict[str, float] = {}
    largest = 0.0
    for rank, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p) - rank) * value))
        found[name] = largest
    return found
