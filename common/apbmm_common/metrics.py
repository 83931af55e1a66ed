"""The metrics: what a benchmark's result says about a merge, one number a metric.

A registered metric is the mean over a benchmark's questions of one number for each question. To add
one, `register` a `Metric`: the workers then measure it, rehearsals invent it, and run files,
objectives (Eq. 2), the search's noise, status and `apbmm compare` know it by its name.

Every score that an EvalScope adapter reports is a metric as well, under the name that EvalScope's
report gives it: ``f1``, or ``accuracy:pass_at_k[k=4]`` for anything but a mean over the questions.
Such a score needs no entry here: `metric` describes it as one of which more is better. An entry
with ``of=None`` says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

LONGEST_METRIC_NAME = 128
"""Characters."""
Better = Literal["higher", "lower"]
"""Which values of a metric are better."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer of an evaluation, scored.

    Attributes:
        question: the question's id, with the repetition's number where there are several.
        score: the benchmark's primary score of the answer, 0 to 1.
        tokens: number of generated tokens (a mean, in a rehearsal).
        seconds: from when the engine was given the question to the answer's last token. All
            questions are given to it at once, so this includes the wait for a place in its batch.
        finish_reason: ``length`` for an answer that was cut off by the token limit.
        well_formed: whether the answer has the form that was asked for; None where the benchmark
            does not say.
        thought_closed: whether the answer closed its thought (`generation.thought_end`); None for
            an answer without a thought.
        scores: every score of the answer, by the name of the metric that is its mean.
    """

    question: str
    score: float
    tokens: float
    seconds: float
    finish_reason: Literal["stop", "length"]
    well_formed: bool | None = None
    thought_closed: bool | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


def binomial_variance(share: float, questions: int) -> float:
    """Variance p (1 - p) / n of a share of n questions, p = (share n + 1) / (n + 2).

    The smoothing keeps the variance above 0 where all or none of the questions count.
    """
    smoothed = (share * questions + 1.0) / (questions + 2.0)
    return smoothed * (1.0 - smoothed) / questions


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a benchmark's result.

    Attributes:
        name: what run files, results and status call it.
        meaning: what is measured, for the run-file reference.
        better: whether higher or lower values are better.
        of: the number of one question, or None for a question that has none. Its mean over the
            questions that have one is the metric. None for a score that EvalScope reports.
        unit: what follows a value in running text; empty for a share shown in per cent.
        form: format specification of a value for people.
        least: the lowest value that a result may have.
        most: the highest one.
        variance: variance of a benchmark's mean, given that mean and the number of questions; None
            where it is not known.
        always_shown: whether terminals show it in every run that has it; others are shown where an
            objective uses them.
    """

    name: str
    meaning: str
    better: Better
    of: Callable[[Outcome], float | None] | None
    unit: str = ""
    form: str = ".4g"
    least: float = -math.inf
    most: float = math.inf
    variance: Callable[[float, int], float] | None = None
    always_shown: bool = False

    def text(self, value: float | None) -> str:
        """A value for people, without its unit; a dash for a missing one."""
        return "-" if value is None else format(value, self.form)

    def fault_of(self, value: float) -> str:
        """That no result has such a value, in words; "" for a value that one may have."""
        if self.least <= value <= self.most:
            return ""
        share = "; 0.98 is 98 %" if self.most == 1.0 else ""
        return f"{self.name} is from {self.least:g} to {self.most:g}{share}"

    def text_with_unit(self, value: float | None) -> str:
        """A value for people, with its unit."""
        return f"{self.text(value)} {self.unit}".rstrip()


METRICS: dict[str, Metric] = {}
"""The registered metrics by name. A metric that is not here can only be a score of EvalScope's."""


def register(new: Metric) -> Metric:
    """Make a metric known. Raises ValueError for a name that is taken."""
    if new.name in METRICS:
        raise ValueError(f"two metrics are called {new.name}")
    METRICS[new.name] = new
    return new


def metric(name: str) -> Metric:
    """The metric of a name; the description of an EvalScope score for one not registered."""
    return METRICS.get(name) or Metric(
        name, "a score of EvalScope's", better="higher", of=None, unit=name
    )


def score_metric(score: str) -> str:
    """The metric that is the mean of a score of EvalScope's, given the score's name in its report.

    A score that is called like a metric of ours is told apart from it: ``accuracy:mean``.
    """
    ours = METRICS.get(score)
    return score if ours is None or ours.of is None else f"{score}:mean"


def number_of(name: str, outcome: Outcome) -> float | None:
    """The number that an answer adds to a metric's mean; None where it has none."""
    known = METRICS.get(name)
    return outcome.scores.get(name) if known is None or known.of is None else known.of(outcome)


def means(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Every metric of a benchmark's outcomes: the registered ones, and scores that all have."""
    found = {}
    for each in METRICS.values():
        if each.of is not None:
            numbers = [number for o in outcomes if (number := each.of(o)) is not None]
            if numbers:
                found[each.name] = math.fsum(numbers) / len(numbers)
    for name in outcomes[0].scores:
        values = [outcome.scores.get(name) for outcome in outcomes]
        if name not in found and None not in values:
            found[name] = math.fsum(value for value in values if value is not None) / len(values)
    return found


def shown_metrics(of_objectives: Iterable[str]) -> tuple[str, ...]:
    """Names of the metrics that terminals show of a run with these metrics in its objectives."""
    always = (each.name for each in METRICS.values() if each.always_shown)
    return tuple(dict.fromkeys([*always, *of_objectives]))


def in_words(values: Mapping[str, float], names: Iterable[str]) -> str:
    """The named metrics in running text, without those that are missing."""
    return " ".join(metric(name).text_with_unit(values[name]) for name in names if name in values)


register(
    Metric(
        "accuracy",
        "the benchmark's primary score, 0 to 1",
        better="higher",
        of=lambda outcome: outcome.score,
        form=".1%",
        least=0.0,
        most=1.0,
        variance=binomial_variance,
        always_shown=True,
    )
)
register(
    # How much token counts vary between questions is mostly the questions' doing, the same for
    # every merge, so their variance would not be the noise of a comparison of merges.
    Metric(
        "tokens",
        "generated tokens",
        better="lower",
        of=lambda outcome: outcome.tokens,
        unit="tokens",
        form=".1f",
        least=0.0,
        always_shown=True,
    )
)
register(
    Metric(
        "seconds",
        "seconds from when the engine is given the question, which is at the same time for all "
        "questions, to the answer's last token",
        better="lower",
        of=lambda outcome: outcome.seconds,
        unit="s",
        form=".2f",
        least=0.0,
    )
)
register(
    Metric(
        "truncated",
        "share of answers that the limit of tokens cuts off",
        better="lower",
        of=lambda outcome: float(outcome.finish_reason == "length"),
        unit="truncated",
        form=".1%",
        least=0.0,
        most=1.0,
        variance=binomial_variance,
    )
)
register(
    # No variance: it is a share of the answers with a thought, whose number results do not have.
    Metric(
        "closed_thoughts",
        "share of the answers with a thought that closed it; missing where no answer had one",
        better="higher",
        of=lambda outcome: (
            None if outcome.thought_closed is None else float(outcome.thought_closed)
        ),
        unit="thoughts closed",
        form=".1%",
        least=0.0,
        most=1.0,
        always_shown=True,
    )
)
