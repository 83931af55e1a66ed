"""Repetitions: the answers to one question of a benchmark with ``repeats``, each of other draws.

The answers to one question are not independent of each other: a hard question is hard each time. So
questions, not answers, are what means, variances and intervals are taken over. The mean of a metric
over n questions of k answers each is the mean of the n questions' means (avg@k), and its variance
over sets of questions is that of these means divided by n, whatever k is (a cluster is a question;
L. Kish, 1965). Its expectation is (B + W / k) / n, with B the variance between questions and W that
of the answers to one question. The draws alone, on the same questions, leave W / (n k) of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_SEPARATOR = "#"
_Variance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def repetition_id(question: str, repetition: int) -> str:
    """The id of an answer to a question that is answered several times; repetitions begin at 1."""
    return f"{question}{_SEPARATOR}{repetition}"


def split_id(answer: str, repeats: int) -> tuple[str, int]:
    """The question that an answer's id names, and the repetition, from 1.

    Raises ValueError for an id that `repetition_id` cannot have made.
    """
    if repeats == 1:
        return answer, 1
    question, _, repetition = answer.rpartition(_SEPARATOR)
    if not repetition.isdecimal():
        raise ValueError(f"{answer} names no repetition of a question")
    return question, int(repetition)


def question_of(answer: str, repeats: int) -> str:
    """The question that an answer's id names."""
    return split_id(answer, repeats)[0]


class Spread(BaseModel):
    """How much one metric varies over a benchmark whose questions are answered several times."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    between: _Variance
    """Variance (ddof 1) over the questions of the means of their answers; 0 where there is one
    question. It holds what the draws add to these means."""
    within: _Variance
    """Variance (ddof 1) of the answers to one question, averaged over the questions."""


def spread(answers: Sequence[Sequence[float]]) -> Spread:
    """The spread of a metric, given its numbers of each question: two or more, equally many."""
    means = [math.fsum(numbers) / len(numbers) for numbers in answers]
    within = [_variance(numbers) for numbers in answers]
    return Spread(
        between=_variance(means) if len(means) > 1 else 0.0, within=math.fsum(within) / len(within)
    )


def share_variance(share: float, questions: int, between: float) -> float:
    """Variance of the mean of ``questions`` numbers from 0 to 1, over sets of such questions.

    ``between`` is their variance (ddof 1). Two more questions, one all right and one all wrong,
    keep the result above 0 where all are alike. For numbers that are 0 or 1 it is
    `metrics.binomial_variance`.
    """
    square = between * (questions - 1) + questions * share**2
    smoothed = (share * questions + 1.0) / (questions + 2.0)
    return ((square + 1.0) / (questions + 2.0) - smoothed**2) / questions


def effective_questions(share: float, questions: int, repeats: int, between: float) -> float:
    """How many questions, each answered once, would tell a share of right answers as precisely.

    The binomial variance over the variance between questions: n where the answers to a question are
    all alike, up to n k where they are independent of each other.
    """
    binomial = share * (1.0 - share)
    most = questions * repeats
    if binomial <= 0.0:
        return questions
    return min(most, max(questions, binomial * questions / between)) if between > 0.0 else most


def _variance(numbers: Sequence[float]) -> float:
    mean = math.fsum(numbers) / len(numbers)
    return math.fsum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1)
