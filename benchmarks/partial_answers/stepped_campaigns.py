"""Campaigns in which merges are measured in steps, with simulated answers, workers and clock."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from apbmm_master.search.pareto import front, hypervolume
from apbmm_master.search.partial_answers.outcome_estimates import Answers, Outcomes, estimate
from apbmm_master.search.partial_answers.steps import (
    Paused,
    audited,
    certainly_beaten,
    completed_next,
    expected_gain,
    reserve,
    step_ends,
)
from benchmarks.partial_answers.fast_search import FastSearch
from benchmarks.partial_answers.simulated_answers import (
    BENCHMARK,
    QUESTIONS,
    SIZES,
    TINY,
    AnswerWorld,
    engine_step,
    means,
    objectives,
    question_order,
    variances,
)

Array = npt.NDArray[np.float64]
REFERENCE = np.array([-0.2, -0.2])
WORKERS, INITIAL, FULL = 4, 8, 40
HOT_LOAD = 60.0
PREFILL = 8_000.0
"""Tokens a second of an answer that goes on: those that it has are read before the next one."""
UNLIKELY = 0.1
SAMPLES = np.random.default_rng(1).normal(size=(256, 2))


@dataclass(frozen=True)
class Rule:
    """What happens after a step.

    - `choice`: `whole` (no steps), `bound` (stop what the exact bound excludes), `likely` (stop
      what is on the front with a probability below a tenth), `halving` (`promoted`), `gain`
      (the largest expected gain per expected cost, of the paused merges and a new vector), `late`
      (begin new vectors until the budget's end);
    - `shares` of the questions after each step;
    - `kept`: the share of `steps.reserve` that the end of the budget is kept for;
    - `opening`: how many merges are measured in full before any pauses;
    - `audits`: the share of pauses that are completed all the same;
    - `answered`: a step but the last ends when this share of its questions is answered; the other
      answers are cut, and go on from their own tokens in the next step;
    - `alone`: of a paused merge its estimate counts, and not what the surrogate expects there that
      is told all estimates.
    """

    choice: str
    shares: tuple[float, ...] = (0.15, 0.3, 0.6, 1.0)
    kept: float = 1.0
    opening: int = 0
    audits: float = 0.0
    answered: float = 1.0
    alone: bool = False


RULES = {
    "whole": Rule("whole", (1.0,)),
    "bound": Rule("bound"),
    "likely, from 30 %": Rule("likely", (0.3, 0.6, 1.0)),
    "halving": Rule("halving"),
    "gain": Rule("gain"),
    "late, from 30 %": Rule("late", (0.3, 1.0), kept=0.7),
    "late, from 30 %, 90 % answered": Rule("late", (0.3, 1.0), kept=0.7, answered=0.9),
    "late, from 30 %, 80 % answered": Rule("late", (0.3, 1.0), kept=0.7, answered=0.8),
    "late, from 30 %, 80 % answered, estimates alone": Rule(
        "late", (0.3, 1.0), kept=0.7, answered=0.8, alone=True
    ),
    "late, from 30 %, 70 % answered": Rule("late", (0.3, 1.0), kept=0.7, answered=0.7),
    "late, 4 in full": Rule("late", opening=4),
    "late, 4 in full, audited": Rule("late", opening=4, audits=0.1),
    "late, 4 in full, from 30 %": Rule("late", (0.3, 1.0), kept=0.7, opening=4),
}


@dataclass(frozen=True)
class Campaign:
    """What to run. `share` is the budget, of what 40 full evaluations of this seed generate."""

    rule: str
    family: str
    seed: int
    noise: float
    share: float
    lanes: int = 12
    dimensions: int = 12


@dataclass(frozen=True)
class Outcome:
    """What a campaign spent and reached.

    `tokens` and `gpu_hours` are all that was generated and held, `hours` the wall clock. `vectors`
    were begun, `full` of them measured in full; `front` of these are recommended, with the
    hypervolume `true_hv` without noise and `measured_hv` as measured. `errors` are those of each
    pause's estimates (accuracy, cost), in their standard deviations.
    """

    tokens: float
    gpu_hours: float
    hours: float
    vectors: int
    full: int
    front: int
    true_hv: float
    measured_hv: float
    errors: tuple[tuple[float, float], ...]


@dataclass
class Merge:
    """A vector, its answers, and how much of them is known.

    `done` questions of the order have been asked, those up to `until` are being asked. `generated`
    (Q,) are the tokens of each answer so far, `rest` are those that are expected to follow.
    """

    x: Array
    number: int
    scores: Array
    tokens: Array
    truth: Array
    generated: Array
    rest: float = 0.0
    done: int = 0
    until: int = 0
    stopped: bool = False
    completing: bool = False
    y: Array = field(default_factory=lambda: np.zeros(2))
    variance: Array = field(default_factory=lambda: np.zeros(2))

    @property
    def running(self) -> bool:
        """Whether a worker measures it now."""
        return self.until > self.done

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """Which questions (Q,) have a whole answer."""
        return np.asarray(self.generated > self.tokens - TINY)

    @property
    def full(self) -> bool:
        """Whether every question is answered."""
        return self.done == QUESTIONS


class Simulation:
    """One campaign; `budget` in tokens, None for 40 full evaluations."""

    def __init__(self, campaign: Campaign, budget: float | None) -> None:
        self.campaign, self.budget = campaign, budget
        self.rule = RULES[campaign.rule]
        self.ends = step_ends(QUESTIONS, self.rule.shares)
        self.world = AnswerWorld(
            campaign.family, campaign.seed, campaign.dimensions, campaign.noise
        )
        self.order = question_order(campaign.seed)
        self.search = FastSearch(campaign.dimensions, campaign.seed, REFERENCE, INITIAL)
        self.references = [self._merge(np.full(campaign.dimensions, end), -1) for end in (0.0, 1.0)]
        self.merges: list[Merge] = []
        self.tokens = self.gpu_seconds = self.clock = 0.0
        self.errors: list[tuple[float, float]] = []
        self.finishing = False

    def run(self) -> Outcome:
        """Simulate until the budget is spent and nothing runs."""
        flying: list[tuple[float, int, int, Merge]] = []
        loaded: list[Merge | None] = [None] * WORKERS
        idle, count = list(range(WORKERS)), 0
        while True:
            for worker in tuple(idle):
                chosen = self._next(loaded[worker])
                if chosen is None:
                    continue
                idle.remove(worker)
                seconds = self._begin(chosen, hot_load=loaded[worker] is not chosen)
                loaded[worker], count = chosen, count + 1
                heapq.heappush(flying, (self.clock + seconds, count, worker, chosen))
            if not flying:
                return self._outcome()
            self.clock, _, worker, merge = heapq.heappop(flying)
            idle.append(worker)
            self._finish(merge)

    def _merge(self, x: Array, number: int) -> Merge:
        return Merge(x, number, *self.world.answers(x), self.world.truth(x), np.zeros(QUESTIONS))

    def _begin(self, merge: Merge, *, hot_load: bool) -> float:
        """Ask the questions of the merge's next step; how many seconds that takes."""
        merge.until = next(end for end in self.ends if end > merge.done)
        asked = self.order[: merge.until]
        open_ones = asked[~merge.answered[asked]]
        share = self.rule.answered if merge.until < QUESTIONS else 1.0
        enough = math.ceil(share * merge.until) - (merge.until - len(open_ones))
        cut = merge.generated[open_ones]
        step = engine_step(merge.tokens[open_ones] - cut, self.campaign.lanes, enough)
        merge.generated[open_ones] += step.generated
        seconds = step.seconds + float(cut.sum()) / PREFILL + HOT_LOAD * hot_load
        self.tokens += float(step.generated.sum())
        self.gpu_seconds += seconds
        return seconds

    def _finish(self, merge: Merge) -> None:
        merge.done = merge.until
        self._estimate(merge)
        if not merge.full:
            error = objectives(means(merge.scores, merge.tokens)) - merge.y
            found = error / np.sqrt(np.maximum(merge.variance, 1e-12))
            self.errors.append((round(float(found[0]), 3), round(float(found[1]), 3)))

    def _estimate(self, merge: Merge) -> None:
        """Tell the search what is known of a merge."""
        raw, spread = np.zeros(4), np.zeros(4)
        known, cut = merge.answered, np.where(merge.answered, 0.0, merge.generated)
        earlier = [*self.references, *(m for m in self.merges if m.full and m is not merge)]
        for k in (0, 1):
            asked = np.equal(BENCHMARK, k)
            found = estimate(
                Outcomes(
                    np.stack([m.scores[asked] for m in earlier]),
                    np.stack([m.tokens[asked] for m in earlier]),
                    np.stack([m.x for m in earlier]),
                ),
                Answers(
                    np.where(known, merge.scores, np.nan)[asked],
                    np.where(known, merge.tokens, np.nan)[asked],
                    generated=cut[asked],
                    vector=merge.x,
                ),
            )
            raw[[k, 2 + k]] = found.accuracy.mean, found.tokens.mean
            spread[[k, 2 + k]] = found.accuracy.variance, found.tokens.variance
        merge.y, merge.variance = objectives(raw), variances(spread)
        merge.rest = max(float(raw[2:] @ SIZES - merge.generated.sum()), 1.0)
        self.search.tell(merge.x, merge.y, merge.variance)

    def _measured(self) -> Array:
        """Objectives (n, 2) of the merges that are measured in full."""
        return np.array([m.y for m in self.merges if m.full]).reshape(-1, 2)

    def _new(self) -> Merge:
        unknown = [m.x for m in self.merges if m.running and not m.done]
        return self._merge(self.search.ask(unknown), len(self.merges))

    def _next(self, last: Merge | None) -> Merge | None:
        """The merge that a worker measures now, after `last`; None when it stays idle."""
        if self.budget is None:
            return self._started() if len(self.merges) < FULL else None
        left = self.budget - self.tokens
        if left <= 0.0:
            return None
        if last is not None and last.completing and not last.full:
            return last
        at = [m for m in self.merges if 0 < m.done < QUESTIONS and not (m.running or m.stopped)]
        paused = self._paused(at)
        measured = self._measured()
        underway = [m.y for m in self.merges if m.running and m.done]
        gains = np.zeros(0)
        if paused:
            mean, deviation = (
                np.stack(v) for v in zip(*((p.mean, p.deviation) for p in paused), strict=True)
            )
            rivals = np.concatenate([measured, np.array(underway).reshape(-1, 2)])
            gains = expected_gain(mean, deviation, rivals, REFERENCE)
        if not self.finishing and left <= self.rule.kept * reserve(paused, measured):
            # More merges are complete than when the first pauses were estimated.
            self.finishing = True
            for merge in at:
                self._estimate(merge)
            return self._next(last)
        if self.finishing:
            index = completed_next(paused, gains, 1.25 * left)
            return None if index is None else at[index]
        chosen = self._chosen(last, at, paused, gains)
        return self._started() if chosen is None else chosen

    def _started(self) -> Merge:
        merge = self._new()
        self.merges.append(merge)
        drawn = audited(self.campaign.seed, merge.number, self.rule.audits)
        merge.completing = drawn or merge.number < self.rule.opening
        return merge

    def _paused(self, at: list[Merge]) -> list[Paused]:
        if not at:
            return []
        mean, deviation = self.search.posterior(np.stack([m.x for m in at]))
        if self.rule.alone:
            mean, deviation = (np.stack(v) for v in ([m.y for m in at], [m.variance for m in at]))
            deviation = np.sqrt(deviation)
        return [Paused(mean[i], deviation[i], m.rest) for i, m in enumerate(at)]

    def _chosen(
        self, last: Merge | None, at: list[Merge], paused: list[Paused], gains: Array
    ) -> Merge | None:
        """The paused merge that goes on; None for a new vector."""
        choice = self.rule.choice
        if choice in ("bound", "likely") and last in at:
            assert last is not None
            last.stopped = self._is_stopped(last, paused[at.index(last)])
            return None if last.stopped else last
        if choice == "halving":
            steps = range(1, len(self.ends) + 1)
            done = [max(m.done, m.until) for m in self.merges]
            reached = [len(done), *(sum(d >= self.ends[s - 1] for d in done) for s in steps)]
            index = promoted([self.ends.index(m.done) + 1 for m in at], reached, gains)
            return None if index is None else at[index]
        if choice == "gain" and paused and len(self.merges) >= INITIAL:
            worth = gains / [p.cost for p in paused]
            best = int(np.argmax(worth))
            return at[best] if worth[best] > self._worth_of_new() else None
        return None

    def _is_stopped(self, merge: Merge, estimated: Paused) -> bool:
        measured = self._measured()
        if self.rule.choice == "bound":
            scores = np.where(merge.answered, merge.scores, 1.0)
            return certainly_beaten(objectives(means(scores, merge.generated)), measured)
        samples = estimated.mean + estimated.deviation * SAMPLES
        worse = np.asarray((measured[None] >= samples[:, None]).all(axis=2))
        beaten = worse.any(axis=1)
        return bool(1.0 - beaten.mean() < UNLIKELY)

    def _worth_of_new(self) -> float:
        """Expected gain of the next vector per expected cost: it may stop after its first step."""
        mean, deviation = self.search.posterior(self._new().x[None])
        self.search.forget_last()
        gain = expected_gain(mean, deviation, self._measured(), REFERENCE)[0]
        begun = [m for m in self.merges if m.done]
        whole = float(np.mean([m.tokens[self.order[: m.done]].mean() for m in begun])) * QUESTIONS
        on = max(0.15, float(np.mean([m.done > self.ends[0] for m in begun])))
        first = self.ends[0] / QUESTIONS
        return float(gain) / (whole * (first + on * (1.0 - first)))

    def _outcome(self) -> Outcome:
        full = [m for m in self.merges if m.full]
        measured = self._measured()
        chosen = front(measured)
        return Outcome(
            tokens=self.tokens,
            gpu_hours=self.gpu_seconds / 3600.0,
            hours=self.clock / 3600.0,
            vectors=len(self.merges),
            full=len(full),
            front=len(chosen),
            true_hv=hypervolume([full[i].truth for i in chosen], REFERENCE),
            measured_hv=hypervolume(measured, REFERENCE),
            errors=tuple(self.errors),
        )


def promoted(
    steps: Sequence[int], reached: Sequence[int], gains: Array, share: float = 0.5
) -> int | None:
    """Index of the paused merge that goes on to its next step; None: begin a new vector instead.

    Asynchronous successive halving (Li et al., 2020, arXiv 1810.05934) with the expected gain in
    hypervolume in place of a loss. `steps[i]` is how many steps paused merge i has completed,
    `reached[s]` counts the merges that have completed s steps, or go on to step s now;
    `reached[0]` those that were begun. At most `share` of those that completed a step go on; of the
    paused ones the one with the largest of `gains` (p,), where that is above 0. Later steps first.
    """
    for step in range(len(reached) - 2, 0, -1):
        if reached[step + 1] >= share * reached[step]:
            continue
        there = [i for i, done in enumerate(steps) if done == step and gains[i] > 0.0]
        if there:
            return max(there, key=lambda i: float(gains[i]))
    return None
