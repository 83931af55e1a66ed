"""Measured numbers with their intervals.

All intervals are two-sided at `LEVEL`. They say how far a figure may be from what the same model
would reach on more questions of the same kind.

- A share of answers (accuracy where every score is 0 or 1, truncated answers) has Wilson's
  interval. E. B. Wilson, 1927.
- A mean over questions whose squares are known (tokens, partial scores) has its standard error,
  the standard deviation (ddof 1) over the square root of the number of questions; its interval is
  1.96 of these to either side.
- Where each question has several answers, questions are counted and not answers: the standard error
  of a mean is the standard deviation of the questions' means over the root of their number, and
  Wilson's interval is that of as many questions as would tell the share as precisely with one
  answer each (`apbmm_common.repetitions`).
- A mean over several benchmarks has an interval from theirs, by the square-and-add rule: each side
  is the root of the sum of the squared sides, each times its weight. R. G. Newcombe, 1998.

The journal has score, tokens and the reason of the end for every answer. Other metrics have no
interval, unless questions have several answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

from apbmm_common.metrics import metric
from apbmm_common.protocol.messages import BenchmarkResult
from apbmm_common.repetitions import Spread, effective_questions
from apbmm_master.journal.storage.store import OutcomeSums

LEVEL = 0.95
STANDARD_ERRORS = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Half the width of a normal interval at `LEVEL`, in standard errors."""
_WHOLE = 1e-6


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number. The limits and the standard error are None where they are not known."""

    value: float
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None


@dataclass(frozen=True, slots=True)
class BenchmarkFigures:
    """What one evaluation measured on one benchmark.

    ``metrics`` are the raw metrics of the journal (see `apbmm_common.metrics`). ``questions`` have
    ``repeats`` answers each; ``truncated`` and ``malformed`` count answers. ``sums`` is None where
    the journal has no single answers. ``spreads`` are those of metrics over several answers to each
    question.
    """

    metrics: Mapping[str, float]
    questions: int
    truncated: int
    malformed: int
    sums: OutcomeSums | None = None
    repeats: int = 1
    spreads: Mapping[str, Spread] = field(default_factory=dict)

    @classmethod
    def of(cls, result: BenchmarkResult, sums: OutcomeSums | None) -> BenchmarkFigures:
        """The figures of a result; ``sums`` are those of its answers."""
        return cls(
            result.metrics,
            result.questions,
            result.truncated,
            result.malformed,
            sums,
            result.repeats,
            result.spreads,
        )

    @property
    def answers(self) -> int:
        """The number of answers."""
        return self.questions * self.repeats

    @property
    def tokens(self) -> float:
        """Generated tokens of all answers together; 0 where they were not measured."""
        if self.sums is not None:
            return float(self.sums.tokens)
        return self.metrics.get("tokens", 0.0) * self.answers

    def figure(self, name: str) -> Figure | None:
        """One metric with its interval; None where it was not measured."""
        if name not in self.metrics:
            return None
        value = self.metrics[name]
        if self.repeats > 1:
            return self._figure_of_repeats(name, value)
        if name == "truncated":
            return _share(value, self.truncated, self.questions)
        if name == "accuracy" and (right := self._right) is not None:
            return _share(value, right, self.questions)
        if self.sums is not None and name in ("accuracy", "tokens"):
            total, squared = (
                (self.sums.score, self.sums.squared_score)
                if name == "accuracy"
                else (self.sums.tokens, self.sums.squared_tokens)
            )
            return _mean(name, value, total, squared, self.sums.answers)
        return Figure(value)

    def _figure_of_repeats(self, name: str, value: float) -> Figure:
        """A metric over questions with several answers; bare where not every answer has it."""
        if name not in self.spreads or self.questions < 2:
            return Figure(value)
        between = self.spreads[name].between
        figure = _with_error(name, value, math.sqrt(between / self.questions))
        if name == "truncated" or (name == "accuracy" and self._is_right_or_wrong):
            alone = effective_questions(value, self.questions, self.repeats, between)
            low, high = wilson(value * alone, alone)
            return replace(figure, low=low, high=high)
        return figure

    @property
    def _is_right_or_wrong(self) -> bool:
        """Whether every answer is right or wrong, as far as the journal tells."""
        if self.sums is not None:  # scores are from 0 to 1: only 0 and 1 are their own squares
            return abs(self.sums.score - self.sums.squared_score) <= _WHOLE
        right = self.metrics["accuracy"] * self.answers
        return abs(right - round(right)) <= _WHOLE

    @property
    def _right(self) -> int | None:
        """The number of right answers; None where answers can be right in part."""
        right = self.metrics["accuracy"] * self.questions if self.sums is None else self.sums.score
        is_whole = abs(right - round(right)) <= _WHOLE
        return round(right) if is_whole and self._is_right_or_wrong else None


def mean_figure(
    figures: Iterable[Figure | None], weights: Sequence[float] | None = None
) -> Figure | None:
    """The mean of figures of several benchmarks; None unless there are any and all are known.

    ``weights`` has one for each; without it all are equal.
    """
    known = []
    for each in figures:
        if each is None:
            return None
        known.append(each)
    if not known:
        return None
    if len(known) == 1:
        return known[0]
    weights = weights or [1.0] * len(known)
    shares = [weight / math.fsum(weights) for weight in weights]
    pairs = list(zip(known, shares, strict=True))
    value = math.fsum(each.value * share for each, share in pairs)
    below = [(each.value - each.low) * share for each, share in pairs if each.low is not None]
    above = [(each.high - each.value) * share for each, share in pairs if each.high is not None]
    errors = [
        each.standard_error * share for each, share in pairs if each.standard_error is not None
    ]
    return Figure(
        value,
        value - math.hypot(*below) if len(below) == len(known) else None,
        value + math.hypot(*above) if len(above) == len(known) else None,
        math.hypot(*errors) if len(errors) == len(known) else None,
    )


def _share(value: float, count: int, questions: int) -> Figure:
    low, high = wilson(count, questions)
    error = math.sqrt(max(0.0, value * (1.0 - value)) / questions)
    return Figure(value, low, high, error)


def wilson(count: float, questions: float) -> tuple[float, float]:
    """Wilson's interval at `LEVEL` for ``count`` of ``questions``, of which there is at least one.

    Neither need be whole. The shares p that the count is not too far from:
    |count / n - p| = z sqrt(p (1 - p) / n).
    (`scipy.stats` has it too, but takes seconds to import.)
    """
    share, weight = count / questions, STANDARD_ERRORS**2 / questions
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def _mean(name: str, value: float, total: float, squared: float, questions: int) -> Figure:
    if questions < 2:
        return Figure(value)
    variance = max(0.0, squared - total * total / questions) / (questions - 1)
    return _with_error(name, value, math.sqrt(variance / questions))


def _with_error(name: str, value: float, error: float) -> Figure:
    """A mean with its standard error, and the normal interval within the metric's limits."""
    known = metric(name)
    return Figure(
        value,
        max(known.least, value - STANDARD_ERRORS * error),
        min(known.most, value + STANDARD_ERRORS * error),
        error,
    )
