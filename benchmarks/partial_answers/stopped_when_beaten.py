"""What it saves to stop merges that a measured merge beats whatever they still answer.

    python -m benchmarks.partial_answers.stopped_when_beaten > stopped_when_beaten.md

Merges are evaluated one after another, so many answers at once, and each of these makes a token in
the same time. The questions are asked in one random order, or the longest first by what the two
sources and the merges before have taken, as a worker has it (`AnswerLengths`). With each beat the
best that the merge can still become is compared with the merges measured in full before it:
`certainly_beaten`, with the tokens of finished answers alone ("finished"), or also with those of
answers in flight, as a master has it ("in flight too"). An answer makes 150 tokens from beat to
beat: 30 a second, a beat every 5 s. A merge that is stopped is no rival of later ones, and teaches
no lengths.

- real: three searches of the demo pair with the real vLLM (see `estimates.py`), 40 merges each in
  the order of their completion;
- simulated, at the paper's scale (`simulated_answers.py`, noise 1, D = 12): 40 merges of a Sobol
  sequence, and 40 with one weight for all layers, in random order; 4 landscapes of each of 4
  families. "Rambling": the Sobol sequence, and one merge in seven, drawn at random, ends no answer
  before the limit of tokens and gets a tenth of the right ones right.

Tokens saved are a share of what all merges in full take. Times are shares of the engine's time in
the random order with nothing stopped. Lost: members of the front of all full measurements that were
stopped. The search would have proposed other merges with what is saved, and been told estimates of
the stopped ones; neither is in these tables.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from apbmm_master.scheduling.policy.beaten_merges import ROUNDING
from apbmm_master.search.pareto import front
from apbmm_master.search.partial_answers.steps import certainly_beaten
from apbmm_worker.evaluation.asking_order import AnswerLengths
from benchmarks.partial_answers.asking_order import numbered
from benchmarks.partial_answers.estimates import demo_runs
from benchmarks.partial_answers.simulated_answers import (
    ACCURACIES,
    BENCHMARK,
    LONGEST,
    TOKENS,
    AnswerWorld,
)
from benchmarks.tables import command_line, made_by, markdown

Array = npt.NDArray[np.float64]
FAMILIES = ("calibrated", "network", "additive", "coherent")
LANDSCAPES, MERGES, DIMENSIONS = 4, 40, 12
RAMBLING = 1 / 7
BEAT = 150.0
"""Tokens that each answer in flight makes between two beats."""
AT_ONCE = (12, 64, 256)
HEAD = (
    "merges", "at once", "order", "tokens known", "runs", "stopped of 40", "tokens saved",
    "time, none stopped", "time", "lost",
)  # fmt: skip


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

    def worth(self) -> tuple[Array, Array]:
        """What a right answer adds to the first objective, and a token takes off the second.

        Shapes (Q,).
        """
        sizes = np.bincount(self.benchmark) * len(self.accuracy)
        right, long = 1.0 / (sizes * self.accuracy), 1.0 / (sizes * self.tokens)
        return right[self.benchmark], long[self.benchmark]

    def objectives(self, scores: Array, tokens: Array) -> Array:
        """Eq. 2 (2,) up to constants, from scores and tokens (Q,)."""
        right, long = self.worth()
        return np.array([right @ scores, -(long @ tokens)])


@dataclass(frozen=True)
class Ended:
    """When an evaluation ended, the tokens that it made, and whether it was stopped."""

    time: float
    tokens: float
    stopped: bool


def evaluated(
    merge: Answered,
    order: Sequence[int],
    lanes: int,
    measured: Array,
    scale: Scale,
    *,
    flying: bool,
) -> Ended:
    """Evaluate a merge to the end, or until one of the ``measured`` (n, 2) is known to beat it.

    ``flying``: the tokens of answers in flight are known too.
    """
    right, long = (worth.tolist() for worth in scale.worth())
    waiting, running = list(order)[::-1], list[tuple[float, int, float]]()
    best, spent, now, made = sum(right), 0.0, 0.0, 0.0
    slope = shift = 0.0  # what answers in flight have spent is slope * time - shift

    def is_beaten(beat: int) -> bool:
        in_flight = slope * beat * BEAT - shift if flying else 0.0
        return certainly_beaten(np.array([best, -spent - in_flight]) + ROUNDING, measured)

    while waiting or running:
        while waiting and len(running) < lanes:
            question = waiting.pop()
            heapq.heappush(running, (now + merge.tokens[question], question, now))
            slope, shift = slope + long[question], shift + long[question] * now
        # The beats before the next answer ends. What can still be reached only falls.
        beats = range(math.ceil(now / BEAT), math.ceil(running[0][0] / BEAT))
        if beats and len(measured) and is_beaten(beats[-1]):
            end = beats[bisect.bisect_left(beats, True, key=is_beaten)] * BEAT
            return Ended(end, made + sum(end - begun for *_, begun in running), stopped=True)
        now, question, begun = heapq.heappop(running)
        slope, shift = slope - long[question], shift - long[question] * begun
        best -= right[question] * (1.0 - merge.scores[question])
        spent += long[question] * merge.tokens[question]
        made += merge.tokens[question]
    return Ended(now, made, stopped=False)


@dataclass(frozen=True)
class Run:
    """Merges in the order of their evaluation, after the two sources."""

    name: str
    sources: Sequence[Answered]
    merges: Sequence[Answered]
    scale: Scale

    def order(self) -> list[int]:
        """One random order of all questions, stratified by benchmark."""
        rng = np.random.default_rng(0)
        sizes = np.bincount(self.scale.benchmark)
        return list(np.argsort(np.concatenate([rng.permutation(n) / n for n in sizes])))


def evaluations(
    run: Run, lanes: int, *, longest: bool, flying: bool = False, stops: bool = True
) -> list[Ended]:
    """Evaluate all merges of a run one after another."""
    found = np.array([run.scale.objectives(merge.scores, merge.tokens) for merge in run.merges])
    order, lengths = run.order(), AnswerLengths()
    for source in run.sources:
        lengths.learn(numbered(source.tokens))
    measured: list[int] = []
    ended: list[Ended] = []
    for number, merge in enumerate(run.merges):
        asked = lengths.longest_first(order) if longest else order
        rivals = found[measured if stops else []]
        ended.append(evaluated(merge, asked, lanes, rivals, run.scale, flying=flying))
        if not ended[-1].stopped:
            measured.append(number)
            lengths.learn(numbered(merge.tokens))
    return ended


def lost(run: Run, ended: Sequence[Ended]) -> int:
    """How many members of the front of all full measurements were stopped."""
    found = np.array([run.scale.objectives(merge.scores, merge.tokens) for merge in run.merges])
    return sum(ended[number].stopped for number in front(found))


def real_runs() -> Iterator[Run]:
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
        answered = list(map(Answered, scores, tokens))
        yield Run("searched, real", answered[:2], answered[2:], scale)


def simulated_runs() -> Iterator[Run]:
    """Random designs on simulated merges."""
    scale = Scale(
        BENCHMARK, *(np.array([high - low for low, high in rows]) for rows in (ACCURACIES, TOKENS))
    )
    for family in FAMILIES:
        for seed in range(LANDSCAPES):
            world = AnswerWorld(family, seed, DIMENSIONS, 1.0)
            rng = np.random.default_rng(seed)
            levels = rng.random((MERGES, 1))
            designs = {
                "Sobol": qmc.Sobol(DIMENSIONS, seed=seed).random(MERGES),
                "one weight": np.repeat(levels, DIMENSIONS, axis=1),
            }
            found = {
                name: [Answered(*world.answers(x)) for x in vectors]
                for name, vectors in designs.items()
            }
            found["rambling"] = [
                rambling(merge, rng) if rng.random() < RAMBLING else merge
                for merge in found["Sobol"]
            ]
            sources = [Answered(*world.answers(np.full(DIMENSIONS, end))) for end in (0.0, 1.0)]
            for name, merges in found.items():
                yield Run(f"{name}, {family}", sources, merges, scale)


def rambling(merge: Answered, rng: np.random.Generator) -> Answered:
    """A merge that ends no answer before the limit, and gets a tenth of the right ones right."""
    kept = rng.random(len(merge.scores)) < 0.1
    return Answered(merge.scores * kept, np.full(len(merge.tokens), LONGEST))


def rows(name: str, lanes: int, runs: Sequence[Run]) -> Iterator[list[str]]:
    """The rows of the runs of one kind: means over these."""
    wholes = {
        longest: [evaluations(run, lanes, longest=longest, stops=False) for run in runs]
        for longest in (False, True)
    }
    for longest, flying in itertools.product((False, True), repeat=2):
        shares, stopped, missed = [], [], 0
        for run, base, whole in zip(runs, wholes[False], wholes[longest], strict=True):
            ended = evaluations(run, lanes, longest=longest, flying=flying)
            time = sum(each.time for each in base)
            shares.append(
                [
                    1.0 - sum(each.tokens for each in ended) / sum(each.tokens for each in base),
                    sum(each.time for each in whole) / time,
                    sum(each.time for each in ended) / time,
                ]
            )
            stopped.append(sum(each.stopped for each in ended))
            missed += lost(run, ended)
        saved, whole_time, ended_time = np.mean(shares, axis=0)
        yield [
            name,
            str(lanes),
            "longest first" if longest else "random",
            "in flight too" if flying else "finished",
            str(len(runs)),
            f"{np.mean(stopped):.1f}",
            f"{100 * saved:.1f} %",
            f"{whole_time:.3f}",
            f"{ended_time:.3f}",
            str(missed),
        ]


def main() -> None:
    """Print the table."""
    print("# Merges that are stopped when they are beaten\n")
    print(made_by(command_line()))
    print("\n".join(__doc__.splitlines()[4:]) + "\n")
    kinds: dict[str, list[Run]] = {}
    for run in (*real_runs(), *simulated_runs()):
        kinds.setdefault(run.name, []).append(run)
    found = [
        row for name, runs in kinds.items() for lanes in AT_ONCE for row in rows(name, lanes, runs)
    ]
    print(markdown([list(HEAD), *found]))


if __name__ == "__main__":
    main()
