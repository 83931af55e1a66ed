"""Scores of one model on the benchmarks, their standard errors, and the objectives of Eq. 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding import Outcome

Json = dict[str, Any]
"""A JSON object of the report."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one model reached, benchmark by benchmark.

    Attributes:
        accuracy: share of correct answers of each benchmark.
        tokens: mean generated tokens of each benchmark.
        accuracy_error: standard error of the mean of the benchmarks' accuracies.
        tokens_error: standard error of the mean of the benchmarks' mean tokens.
        well_formed: share of well-formed answers over all benchmarks.
    """

    accuracy: dict[str, float]
    tokens: dict[str, float]
    accuracy_error: float
    tokens_error: float
    well_formed: float

    @property
    def mean_accuracy(self) -> float:
        """Mean of the benchmarks' accuracies."""
        return float(np.mean(list(self.accuracy.values())))

    @property
    def mean_tokens(self) -> float:
        """Mean of the benchmarks' mean generated tokens."""
        return float(np.mean(list(self.tokens.values())))

    def record(self) -> Json:
        """The score as rounded numbers for the report."""
        return {
            "accuracy": round(self.mean_accuracy, 4),
            "accuracy_error": round(self.accuracy_error, 4),
            "tokens": round(self.mean_tokens, 3),
            "tokens_error": round(self.tokens_error, 3),
            "well_formed": round(self.well_formed, 4),
            "by_benchmark": {
                name: {"accuracy": round(self.accuracy[name], 4), "tokens": round(tokens, 3)}
                for name, tokens in self.tokens.items()
            },
        }


def score(outcomes: dict[str, Outcome]) -> Score:
    """Summarise the outcomes of all benchmarks."""
    count = len(outcomes)
    accuracy_variances, token_variances = [], []
    for outcome in outcomes.values():
        share = outcome.correct.mean()
        accuracy_variances.append(share * (1 - share) / len(outcome.correct))
        token_variances.append(outcome.tokens.var(ddof=1) / len(outcome.tokens))
    return Score(
        accuracy={name: float(each.correct.mean()) for name, each in outcomes.items()},
        tokens={name: float(each.tokens.mean()) for name, each in outcomes.items()},
        accuracy_error=float(np.sqrt(np.sum(accuracy_variances)) / count),
        tokens_error=float(np.sqrt(np.sum(token_variances)) / count),
        well_formed=float(np.mean([each.well_formed.mean() for each in outcomes.values()])),
    )


def accuracy_gain(better: Score, worse: Score) -> float:
    """Gain in accuracy in standard errors of the difference."""
    error = float(np.hypot(better.accuracy_error, worse.accuracy_error))
    return (better.mean_accuracy - worse.mean_accuracy) / max(error, 1e-9)


def token_gain(better: Score, worse: Score) -> float:
    """Saving in tokens in standard errors of the difference."""
    error = float(np.hypot(better.tokens_error, worse.tokens_error))
    return (worse.mean_tokens - better.mean_tokens) / max(error, 1e-9)


def differs(left: Score, right: Score) -> bool:
    """Whether accuracy or tokens differ by more than two standard errors."""
    return max(abs(accuracy_gain(left, right)), abs(token_gain(left, right))) > 2


def dominates(left: Score, right: Score) -> bool:
    """Whether `left` is no worse in both and better by over two standard errors in one."""
    gains = (accuracy_gain(left, right), token_gain(left, right))
    return min(gains) >= 0 and max(gains) > 2


def objectives(each: Score, thinking: Score, instruct: Score) -> tuple[float, float]:
    """Eq. 2: rescaled accuracy and rescaled saving in tokens, averaged over the benchmarks."""
    reasoning = [
        (each.accuracy[name] - instruct.accuracy[name])
        / (thinking.accuracy[name] - instruct.accuracy[name])
        for name in each.accuracy
    ]
    saving = [
        (each.tokens[name] - thinking.tokens[name])
        / (instruct.tokens[name] - thinking.tokens[name])
        for name in each.tokens
    ]
    return float(np.mean(reasoning)), float(np.mean(saving))
