"""The tables of `real_merges.py`, in Markdown, and its data in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import wilcoxon

from apbmm_master.search.pareto import hypervolume
from quality_report import half_width, made_by, markdown

Array = npt.NDArray[np.float64]
REFERENCE = (-0.2, -0.2)
INITIAL = 8
FIRST = "ap-bmm-plus"
PREAMBLE = """\
Real merges of the demo pair by vLLM on a CPU and EvalScope, {sample} questions of each of two
benchmarks, campaigns of 8 + 32 evaluations, one after another; see `benchmarks/real_merges.py`.
Hypervolume of the objectives of Eq. 2 as measured on these questions, above (-0.2, -0.2);
`trajectory` is its mean over the 32, `tokens` are all that a campaign generated. Differences are
paired by seed, with 95 % intervals (Student's t), Wilcoxon's p and Holm's correction over the
table. At equal tokens: those of the cheaper campaign of each pair. The last column is the median
number of evaluations after which `ap-bmm-plus` has the other's final hypervolume.
"""
SEEDLESS = 0
"""The seed of campaigns that have none: they are paired with every seed."""


@dataclass(frozen=True)
class Curve:
    """Hypervolume after each evaluation (n,), and all tokens generated until then (n,)."""

    volumes: Array
    tokens: Array

    @classmethod
    def of(cls, campaign: Mapping[str, Any]) -> Curve:
        """The curve of a campaign as it is kept."""
        points = np.array(campaign["y"])
        volumes = [hypervolume(points[: k + 1], REFERENCE) for k in range(len(points))]
        return cls(np.array(volumes), np.cumsum(campaign["tokens"]).astype(np.float64))

    @property
    def trajectory(self) -> float:
        """Mean hypervolume over the evaluations after the initial design."""
        return float(self.volumes[INITIAL:].mean())

    def within(self, tokens: float) -> float:
        """Hypervolume of the evaluations that so many tokens are enough for."""
        count = int(np.searchsorted(self.tokens, tokens, side="right"))
        return float(self.volumes[count - 1]) if count else 0.0

    def reaches(self, volume: float) -> float:
        """After how many evaluations the hypervolume is at least this; infinite if it never is."""
        found = np.flatnonzero(self.volumes >= volume)
        return float(found[0] + 1) if len(found) else float("inf")


Curves = dict[str, dict[int, Curve]]


def write_report(campaigns: Sequence[Mapping[str, Any]], sample: int | None, out: Path) -> None:
    """`OUT.md` with the tables, `OUT.json` with objectives and tokens of every evaluation.

    Each merge answered a `sample` of each benchmark's questions; None for all of them.
    """
    curves: Curves = {}
    for campaign in campaigns:
        curves.setdefault(campaign["method"], {})[campaign["seed"]] = Curve.of(campaign)
    parts = [made_by(f"python benchmarks/real_merges.py report STORE --out {out}")]
    parts.append(PREAMBLE.format(sample=sample or "all"))
    parts += [means(curves), differences(curves)]
    out.with_suffix(".md").write_text("\n".join(parts))
    kept = [{name: c[name] for name in ("method", "seed", "y", "tokens")} for c in campaigns]
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in kept)
    out.with_suffix(".json").write_text(f"[\n{lines}\n]\n")


def means(curves: Curves) -> str:
    """The means of each method over its own runs."""
    rows = [["method", "runs", "hypervolume", "trajectory", "tokens"]]
    for method, runs in sorted(curves.items(), key=lambda item: -_final(item[1])):
        trajectory = np.mean([run.trajectory for run in runs.values()])
        tokens = np.mean([run.tokens[-1] for run in runs.values()])
        cells = [f"{_final(runs):.3f}", f"{trajectory:.3f}", f"{tokens:,.0f}"]
        rows.append([f"`{method}`", str(len(runs)), *cells])
    return markdown(rows)


def _final(runs: Mapping[int, Curve]) -> float:
    return float(np.mean([run.volumes[-1] for run in runs.values()]))


def differences(curves: Curves) -> str:
    """Paired differences of `ap-bmm-plus` from each other method, positive where it is ahead."""
    head = [
        f"`{FIRST}` minus", "pairs", "at equal evaluations", "p", "p (Holm)", "ahead in",
        "trajectory", "at equal tokens", "reaches its end with",
    ]  # fmt: skip
    found = {method: pairs_of(curves, method) for method in curves if method != FIRST}
    found = {method: pairs for method, pairs in found.items() if len(pairs) > 1}
    deltas = {method: np.array([a.volumes[-1] - b.volumes[-1] for a, b in pairs])
              for method, pairs in found.items()}  # fmt: skip
    p = {method: signed_rank(delta) for method, delta in deltas.items()}
    corrected = holm(p)
    rows = [head]
    for method, pairs in found.items():
        delta = deltas[method]
        trajectory = np.array([a.trajectory - b.trajectory for a, b in pairs])
        ends = [min(a.tokens[-1], b.tokens[-1]) for a, b in pairs]
        equal = np.array([a.within(t) - b.within(t) for (a, b), t in zip(pairs, ends, strict=True)])
        reached = np.median([a.reaches(b.volumes[-1]) for a, b in pairs])
        rows.append(
            [
                f"`{method}`", str(len(pairs)), interval(delta), f"{p[method]:.3f}",
                f"{corrected[method]:.3f}", f"{int((delta > 0).sum())}", interval(trajectory),
                interval(equal), f"{reached:.0f}" if np.isfinite(reached) else "never",
            ]
        )  # fmt: skip
    return markdown(rows) if len(rows) > 1 else "No method has two pairs yet: no differences.\n"


def pairs_of(curves: Curves, method: str) -> list[tuple[Curve, Curve]]:
    """The runs of the first method and of another with the same seed."""
    other = curves[method]
    if set(other) == {SEEDLESS}:
        return [(run, other[SEEDLESS]) for run in curves.get(FIRST, {}).values()]
    return [(run, other[seed]) for seed, run in curves.get(FIRST, {}).items() if seed in other]


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
