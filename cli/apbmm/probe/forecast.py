"""What a run will cost, reckoned from a short evaluation of each source.

Three cases bound what is not known. How long merges answer: nearer to the source with the shorter
answers, as all sources, or longer than all. How fast the engine is with more answers in progress
than the probe had: as the fit to the probe says, or hardly faster.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from apbmm.probe.speed import Speed, TimedAnswer, fit, seconds_for
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import LEAST_SOURCES, BudgetSection
from apbmm_master.journal.costs.budget import LimitName

AT_ONCE = 256
"""Answers that vLLM has in progress at most, where the run file and apbmm do not say."""
FLEETS = (1, 2, 4, 8)
"""Numbers of workers whose wall-clock time is told."""
PAUSE = 1.0
"""Seconds between two evaluations of a worker: proposal, lease, journal."""
STARTS = ("start engine", "try hot-loading", "compare sources")
"""Stages of a worker's first evaluation alone."""
LOADS = ("merge", "load")
LONGER = 1.25
"""In the dearest case merges answer so much longer than the longer source: some merges in between
go on to the limit of tokens."""
SECONDS_AN_HOUR = 3600.0


@dataclass(frozen=True)
class Probed:
    """One source: what was measured, and the seconds of its answers."""

    source: str
    evaluated: Evaluated
    answers: tuple[TimedAnswer, ...]

    def lengths(self, benchmark: str) -> list[int]:
        """Generated tokens of each answer to a benchmark."""
        return [int(tokens) for _, _, tokens, _ in self.evaluated.benchmarks[benchmark].outcomes]

    @property
    def mean_tokens(self) -> float:
        """Mean tokens of an answer, over the benchmarks."""
        found = (benchmark.metrics["tokens"] for benchmark in self.evaluated.benchmarks.values())
        return statistics.fmean(found)


@dataclass(frozen=True)
class Plan:
    """What the run asks: answers by benchmark, the budget, and the limits of an answer."""

    answers: Mapping[str, int]
    budget: BudgetSection
    most_tokens: int
    at_once: int = AT_ONCE
    references: int = LEAST_SOURCES


@dataclass(frozen=True, slots=True)
class Cost:
    """What the run costs in one case. ``tokens`` are the mean of an answer.

    ``load``, ``answers`` and ``report`` are the seconds of one evaluation, ``evaluations`` how many
    the budget pays for, references included; ``limit`` is the limit that ends them. ``start``:
    seconds of each worker before its first answer; ``cards``: of each worker.
    """

    tokens: float
    load: float
    answers: float
    report: float
    evaluations: int
    limit: LimitName
    start: float
    cards: int

    @property
    def evaluation(self) -> float:
        """Seconds of one evaluation."""
        return self.load + self.answers + self.report

    @property
    def gpu_hours(self) -> float:
        """Of the whole run; each worker more adds its start."""
        seconds = self.evaluations * self.evaluation + self.start
        return self.cards * seconds / SECONDS_AN_HOUR

    def wall(self, workers: int) -> float:
        """Seconds from the first start to the last result, with so many workers."""
        rounds = math.ceil(self.evaluations / workers)
        return self.start + rounds * (self.evaluation + PAUSE)


@dataclass(frozen=True)
class Forecast:
    """The cost in the cheapest, the likely and the dearest case, and the speed in the probe."""

    low: Cost
    likely: Cost
    high: Cost
    speed: Speed
    probed_at_once: int
    asked_at_once: int


def reckon(probed: Sequence[Probed], plan: Plan, prepared: float, cards: int) -> Forecast:
    """The forecast from all sources, the last of which was loaded into the running engine.

    ``prepared``: seconds of a worker before its first evaluation. Raises `ValueError` where no
    token was generated.
    """
    speed = fit([source.answers for source in probed])
    seen = min(len(source.answers) for source in probed)
    shorter, *_, longer = sorted(probed, key=lambda source: source.mean_tokens)
    first, second = (source.evaluated.stages for source in (probed[0], probed[-1]))
    count = sum(plan.answers.values())
    report = max(first.get("report", 0.0), second.get("report", 0.0))

    def cost(lengths: list[int], of_step: Callable[[int], float], report_share: float) -> Cost:
        tokens = statistics.fmean(lengths)
        load = sum(second.get(stage, 0.0) for stage in LOADS)
        answers = seconds_for(lengths, speed.first, of_step, plan.at_once)
        reported = report * (count / seen) ** report_share
        evaluations, limit = _paid(plan, cards * (load + answers + reported), tokens * count)
        start = prepared + sum(first.get(stage, 0.0) for stage in STARTS)
        return Cost(tokens, load, answers, reported, evaluations, limit, start, cards)

    crowded = _hardly_faster(speed, seen)
    return Forecast(
        cost(_drawn((shorter, shorter, longer), plan), speed.of_step, 0.0),
        cost(
            _drawn(probed, plan),
            lambda answers: math.sqrt(speed.of_step(answers) * crowded(answers)),
            0.5,
        ),
        cost(_drawn((longer,), plan, LONGER), crowded, 1.0),
        speed,
        seen,
        min(plan.at_once, count),
    )


def _hardly_faster(speed: Speed, seen: int) -> Callable[[int], float]:
    """Seconds of a step where more answers than were ``seen`` add tokens a second by their root.

    Never less than the fit says.
    """

    def of_step(answers: int) -> float:
        fitted = speed.of_step(answers)
        return max(fitted, speed.of_step(seen) * math.sqrt(answers / seen) if answers > seen else 0)

    return of_step


def _drawn(sources: Sequence[Probed], plan: Plan, longer: float = 1.0) -> list[int]:
    """Lengths of all answers of an evaluation, evenly spread over the sorted ones of sources."""
    lengths: list[int] = []
    for benchmark, count in plan.answers.items():
        found = sorted(length for source in sources for length in source.lengths(benchmark))
        places = ((2 * number + 1) * len(found) // (2 * count) for number in range(count))
        lengths += [min(plan.most_tokens, round(found[place] * longer)) for place in places]
    Random(0).shuffle(lengths)  # noqa: S311 - the order in which they are asked
    return lengths


def _paid(plan: Plan, gpu_seconds: float, tokens: float) -> tuple[int, LimitName]:
    """How many evaluations of this cost the budget pays for, and by which of its limits."""
    return min(_limits(plan, gpu_seconds, tokens))


def _limits(plan: Plan, gpu_seconds: float, tokens: float) -> Iterator[tuple[int, LimitName]]:
    budget = plan.budget
    if budget.evaluations is not None:
        yield budget.evaluations + plan.references, "evaluations"
    if budget.gpu_hours is not None:
        yield math.ceil(budget.gpu_hours * SECONDS_AN_HOUR / gpu_seconds), "gpu_hours"
    if budget.generated_tokens is not None:
        yield math.ceil(budget.generated_tokens / max(tokens, 1.0)), "generated_tokens"
