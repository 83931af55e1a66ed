"""What it saves to stop merges that a measured merge beats whatever they still answer.

    python -m benchmarks.partial_answers.stopped_when_beaten > stopped_when_beaten.md

Merges are evaluated one after another, each in one order of the questions, so many answers at once,
and each of these makes a token in the same time. After each answer the best that the merge can
still become is compared with the merges measured in full before it: `certainly_beaten`, with the
tokens of finished answers alone, as a master knows them ("told"), or also of those in flight. A
merge that is stopped is no rival of later ones.

- real: three searches of the demo pair with the real vLLM (see `estimates.py`), 40 merges each in
  the order of their completion;
- simulated, at the paper's scale (`simulated_answers.py`, noise 1, D = 12): 40 merges of a Sobol
  sequence, and 40 with one weight for all layers, in random order; 4 landscapes of each of 4
  families.

Tokens saved are a share of what all merges in full take. Lost: members of the front of all full
measurements that were stopped. The search would have proposed other merges with what is saved, and
been told estimates of the stopped ones; neither is in these tables.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from apbmm_master.search.pareto import front
from apbmm_master.search.partial_answers.steps import certainly_beaten
from benchmarks.partial_answers.estimates import demo_runs
from benchmarks.partial_answers.simulated_answers import ACCURACIES, BENCHMARK, TOKENS, AnswerWorld
from benchmarks.tables import command_line, made_by, markdown

Array = npt.NDArray[np.float64]
FAMILIES = ("calibrated", "network", "additive", "coherent")
LANDSCAPES, MERGES, DIMENSIONS = 4, 40, 12


@dataclass(frozen=True)
class Answered:
    """Scores and tokens (Q,) of one merge; of all merges of a run the same questions."""

    scores: Array
    tokens: Array


@dataclass(frozen=True)
class Scale:
    """The benchmark of each question (Q,), and the spans of accuracy and tokens of each (B,)."""

    benchmark: npt.NDArray[np.intp]
    accuracy: Array
    tokens: Array

    def objectives(self, scores: Array, tokens: Array) -> Array:
        """Eq. 2 (2,) up to constants, from scores and tokens (Q,)."""
        sizes = np.bincount(self.benchmark)
        right, long = (np.bincount(self.benchmark, v) / sizes for v in (scores, tokens))
        return np.array([(right / self.accuracy).mean(), -(long / self.tokens).mean()])


def stopped_at(
    merge: Answered, order: Sequence[int], lanes: int, measured: Array, scale: Scale, *, told: bool
) -> float | None:
    """Tokens that are generated when the merge is known to be beaten; None where it never is."""
    scores, made, now = np.ones(len(order)), np.zeros(len(order)), 0.0
    waiting, running = list(order)[::-1], list[tuple[float, int, float]]()
    while waiting or running:
        while waiting and len(running) < lanes:
            question = waiting.pop()
            heapq.heappush(running, (now + merge.tokens[question], question, now))
        now, question, _ = heapq.heappop(running)
        scores[question], made[question] = merge.scores[question], merge.tokens[question]
        flying = made.copy()
        for _, other, begun in running:
            flying[other] = now - begun
        best = scale.objectives(scores, made if told else flying)
        if running and certainly_beaten(best, measured):
            return float(flying.sum())
    return None


@dataclass(frozen=True)
class Saved:
    """Of one run: merges stopped, the share of tokens saved, and members of the front lost."""

    stopped: int
    tokens: float
    lost: int


def saved(
    merges: Sequence[Answered], order: Sequence[int], lanes: int, scale: Scale, *, told: bool
) -> Saved:
    """Evaluate merges one after another and stop those that are beaten."""
    found = np.array([scale.objectives(merge.scores, merge.tokens) for merge in merges])
    measured: list[int] = []
    ended: dict[int, float] = {}
    for number, merge in enumerate(merges):
        at = stopped_at(merge, order, lanes, found[measured], scale, told=told)
        if at is None:
            measured.append(number)
        else:
            ended[number] = at
    every = sum(merge.tokens.sum() for merge in merges)
    spared = sum(merges[number].tokens.sum() - at for number, at in ended.items())
    return Saved(len(ended), float(spared / every), len(set(front(found)) & set(ended)))


def real_runs() -> Iterator[tuple[str, list[Answered], Scale]]:
    """The searches of the demo pair."""
    every = demo_runs()
    benchmark = np.concatenate(
        [np.full(runs[0].scores.shape[1], k) for k, runs in enumerate(every.values())]
    )
    for runs in zip(*every.values(), strict=True):
        scores, tokens = (
            np.concatenate([getattr(run, name) for run in runs], axis=1)
            for name in ("scores", "tokens")
        )
        ends = [
            [np.bincount(benchmark, values[end]) / np.bincount(benchmark) for end in (0, 1)]
            for values in (scores, tokens)
        ]
        scale = Scale(benchmark, *(high - low for low, high in ends))
        yield "searched, real", list(map(Answered, scores[2:], tokens[2:])), scale


def simulated_runs() -> Iterator[tuple[str, list[Answered], Scale]]:
    """Random designs on simulated merges."""
    scale = Scale(
        BENCHMARK, *(np.array([high - low for low, high in rows]) for rows in (ACCURACIES, TOKENS))
    )
    for family in FAMILIES:
        for seed in range(LANDSCAPES):
            world = AnswerWorld(family, seed, DIMENSIONS, 1.0)
            levels = np.random.default_rng(seed).random((MERGES, 1))
            designs = {
                "Sobol": qmc.Sobol(DIMENSIONS, seed=seed).random(MERGES),
                "one weight": np.repeat(levels, DIMENSIONS, axis=1),
            }
            for name, vectors in designs.items():
                yield f"{name}, {family}", [Answered(*world.answers(x)) for x in vectors], scale


def main() -> None:
    """Print the table."""
    print("# Merges that are stopped when they are beaten\n")
    print(made_by(command_line()))
    print("\n".join(__doc__.splitlines()[4:]) + "\n")
    found: dict[tuple[str, int, bool], list[Saved]] = {}
    for name, merges, scale in (*real_runs(), *simulated_runs()):
        rng = np.random.default_rng(0)
        sizes = np.bincount(scale.benchmark)
        order = np.argsort(np.concatenate([rng.permutation(n) / n for n in sizes])).tolist()
        for lanes in (12, 64):
            for told in (True, False):
                one = saved(merges, order, lanes, scale, told=told)
                found.setdefault((name, lanes, told), []).append(one)
    rows = [["merges", "at once", "tokens known", "runs", "stopped of 40", "tokens saved", "lost"]]
    for (name, lanes, told), each in found.items():
        rows.append(
            [
                name,
                str(lanes),
                "told" if told else "in flight too",
                str(len(each)),
                f"{np.mean([one.stopped for one in each]):.1f}",
                f"{100 * np.mean([one.tokens for one in each]):.1f} %",
                str(sum(one.lost for one in each)),
            ]
        )
    print(markdown(rows))


if __name__ == "__main__":
    main()
