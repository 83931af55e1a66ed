"""What measuring in steps would have saved on real merges: a run's journal, replayed.

    python -m benchmarks.partial_answers.replayed_steps RUN_DIR [RUN_DIR ..]

The vectors are those that the run proposed, in their order; every answer is the run's own. With a
share of the run's tokens, either the first vectors are measured in full until the tokens are spent,
or every vector is measured up to the first step (the first four in full), and the rest is spent on
the largest expected gain per token, step by step. The table has the hypervolume of the merges that
are then measured in full. The search would have proposed other vectors had it seen estimates: the
replay measures the choice among vectors, not the search.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal, read_outcomes
from apbmm_master.search.pareto import front, hypervolume
from apbmm_master.search.partial_answers.outcome_estimates import Answers, Outcomes, estimate
from apbmm_master.search.partial_answers.steps import (
    Paused,
    completed_next,
    expected_gain,
    step_ends,
)
from benchmarks.tables import made_by, markdown

Array = npt.NDArray[np.float64]
REFERENCE = np.array([-0.2, -0.2])
OPENING = 4
STEPS = (0.15, 0.3, 0.6, 1.0)


@dataclass(frozen=True)
class Measured:
    """A run's merges: `x` (n, D), and `scores` and `tokens` (n, Q) of each benchmark.

    The first two rows are the sources at x = 0 and x = 1.
    """

    x: Array
    scores: list[Array]
    tokens: list[Array]

    def objectives(self, accuracies: Array, lengths: Array) -> Array:
        """Eq. 2 of means (benchmarks,): more accuracy and fewer tokens are better."""
        low, high = (np.array([s[i].mean() for s in self.scores]) for i in (0, 1))
        few, many = (np.array([t[i].mean() for t in self.tokens]) for i in (0, 1))
        return np.array(
            [((accuracies - low) / (high - low)).mean(), ((lengths - many) / (few - many)).mean()]
        )

    def deviations(self, accuracies: Array, lengths: Array) -> Array:
        """Standard deviations of the objectives from variances of the means (benchmarks,)."""
        spans = [
            np.array([values[1].mean() - values[0].mean() for values in kind])
            for kind in (self.scores, self.tokens)
        ]
        parts = [v / span**2 for v, span in zip((accuracies, lengths), spans, strict=True)]
        return np.sqrt([part.sum() / len(part) ** 2 for part in parts])

    def in_full(self) -> Array:
        """The objectives (n, 2) of all merges."""
        kinds = [
            np.stack([values.mean(axis=1) for values in kind], axis=1)
            for kind in (self.scores, self.tokens)
        ]
        return np.array([self.objectives(*pair) for pair in zip(*kinds, strict=True)])


def read(run: Path) -> Measured:
    """The merges of a run directory that have answered every question."""
    rows = read_outcomes(run)
    state = RunState().replay(read_journal(run))
    vectors = {e.id: e.vector for e in state.evaluations.values() if e.vector is not None}
    found: dict[str, dict[tuple[str, str], tuple[float, float]]] = {}
    for row in rows:
        found.setdefault(row.evaluation, {})[row.benchmark, row.question] = (row.score, row.tokens)
    asked = max(found.values(), key=len).keys()
    kept = [name for name, got in found.items() if name in vectors and got.keys() == asked]
    x = np.array([vectors[name] for name in kept], dtype=np.float64)
    ends = [int(np.flatnonzero((x == end).all(axis=1))[0]) for end in (0.0, 1.0)]
    order = [*ends, *(i for i in range(len(x)) if i not in ends)]
    values = [
        np.array([[found[kept[i]][q] for q in asked if q[0] == name] for i in order])
        for name in dict.fromkeys(q[0] for q in asked)
    ]
    return Measured(x[order], [v[:, :, 0] for v in values], [v[:, :, 1] for v in values])


class Replay:
    """One random order of the questions; merges are measured up to a share of them."""

    def __init__(self, measured: Measured, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.measured, self.full = measured, measured.in_full()
        self.orders = [rng.permutation(s.shape[1]) for s in measured.scores]
        self.vectors = range(2, len(measured.x))
        self.unit = sum(float(t[2:].sum()) for t in measured.tokens)

    def cost(self, merge: int, begin: float, end: float) -> float:
        """Share of the run's tokens that a merge takes for these questions."""
        size = 0.0
        for tokens, order in zip(self.measured.tokens, self.orders, strict=True):
            first, last = (self._upto(share, order) for share in (begin, end))
            size += float(tokens[merge, order[first:last]].sum())
        return size / self.unit

    def _upto(self, share: float, order: npt.NDArray[np.intp]) -> int:
        if share <= 0.0:
            return 0
        return min(step_ends(len(order), (share, 1.0))) if share < 1.0 else len(order)

    def in_full(self, left: float) -> list[int]:
        """The first merges whose full measurements fit."""
        chosen = []
        for merge in self.vectors:
            left -= self.cost(merge, 0.0, 1.0)
            if left < 0.0:
                break
            chosen.append(merge)
        return chosen

    def in_steps(self, left: float, steps: tuple[float, ...]) -> list[int]:
        """The merges that are complete when all have had a first step and the rest is spent."""
        done = {m: 1.0 if i < OPENING else steps[0] for i, m in enumerate(self.vectors)}
        left -= sum(self.cost(merge, 0.0, share) for merge, share in done.items())
        complete = [merge for merge, share in done.items() if share == 1.0]
        begun = [m for m in done if m not in complete]
        found = {m: self._paused(m, done[m], complete) for m in begun}
        while found:
            names, paused = list(found), list(found.values())
            mean, deviation = np.stack([p.mean for p in paused]), [p.deviation for p in paused]
            gains = expected_gain(mean, np.stack(deviation), self.full[complete], REFERENCE)
            index = completed_next(paused, gains, left)
            if index is None:
                break
            merge = names[index]
            share = next(step for step in steps if step > done[merge])
            left -= self.cost(merge, done[merge], share)
            done[merge] = share
            if share < 1.0:
                found[merge] = self._paused(merge, share, complete)
            else:
                complete.append(merge)
                del found[merge]
        return complete

    def _paused(self, merge: int, share: float, complete: list[int]) -> Paused:
        earlier = [0, 1, *complete]
        x = self.measured.x
        estimates = []
        for scores, tokens, order in zip(
            self.measured.scores, self.measured.tokens, self.orders, strict=True
        ):
            known = np.isin(np.arange(len(order)), order[: self._upto(share, order)])
            got, took = (np.where(known, kind[merge], np.nan) for kind in (scores, tokens))
            rows = Outcomes(scores[earlier], tokens[earlier], x[earlier])
            estimates.append(estimate(rows, Answers(got, took, vector=x[merge])))
        both = [[e.accuracy for e in estimates], [e.tokens for e in estimates]]
        means, spreads = (
            [np.array([getattr(e, name) for e in kind]) for kind in both]
            for name in ("mean", "variance")
        )
        return Paused(
            self.measured.objectives(*means),
            self.measured.deviations(*spreads),
            self.cost(merge, share, 1.0),
        )


def main() -> None:
    """Replay the runs that the command line names and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.35, 0.5, 0.65, 0.75])
    parser.add_argument("--orders", type=int, default=4, help="random orders of the questions")
    options = parser.parse_args()
    rows = [["run", "share", "all in full", "first in full", "in steps", "steps minus first"]]
    for run in options.runs:
        measured = read(run)
        replays = [Replay(measured, seed) for seed in range(options.orders)]
        for share in options.shares:
            first = hypervolume(replays[0].full[replays[0].in_full(share)], REFERENCE)
            steps = [hypervolume(r.full[r.in_steps(share, STEPS)], REFERENCE) for r in replays]
            every = replays[0].full[2:]
            size = f"{hypervolume(every, REFERENCE):.4f} ({len(front(every))} on the front)"
            cells = [f"{first:.4f}", f"{np.mean(steps):.4f}", f"{np.mean(steps) - first:+.4f}"]
            rows.append([run.name, f"{share:g}", size, *cells])
    print(made_by("python -m benchmarks.partial_answers.replayed_steps RUN_DIR .."))
    print(markdown(rows))


if __name__ == "__main__":
    main()
