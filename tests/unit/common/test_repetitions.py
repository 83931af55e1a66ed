"""Questions that are answered several times: ids, spreads, and what they are worth."""

from __future__ import annotations

import numpy as np
import pytest

from apbmm_common.metrics import binomial_variance
from apbmm_common.repetitions import (
    Spread,
    effective_questions,
    question_of,
    repetition_id,
    share_variance,
    split_id,
    spread,
)


@pytest.mark.parametrize("question", ["17", "17#2", "algebra/3.json", "#"])
def test_an_id_tells_question_and_repetition(question: str) -> None:
    assert repetition_id("17", 2) == "17#2"
    assert split_id(repetition_id(question, 12), 12) == (question, 12)
    assert question_of(question, 1) == question


def test_the_spread_is_that_of_the_means_and_within_the_questions() -> None:
    rng = np.random.default_rng(1)
    answers = rng.normal(size=(7, 4))
    found = spread(answers.tolist())
    assert found.between == pytest.approx(np.var(answers.mean(axis=1), ddof=1))
    assert found.within == pytest.approx(np.var(answers, axis=1, ddof=1).mean())
    assert spread([[1.0, 0.0]]) == Spread(between=0.0, within=0.5)


@pytest.mark.parametrize("right", [0, 1, 5, 10])
def test_one_answer_to_each_question_has_the_binomial_variance(right: int) -> None:
    means = np.repeat([1.0, 0.0], [right, 10 - right])
    variance = share_variance(right / 10, 10, float(np.var(means, ddof=1)))
    assert variance == pytest.approx(binomial_variance(right / 10, 10))


def test_equal_answers_tell_no_more_than_one_and_independent_ones_as_much_as_questions() -> None:
    means = np.repeat([1.0, 0.0], [6, 4])
    alike = effective_questions(0.6, 10, 8, float(np.var(means, ddof=1)))
    assert alike == 10
    assert effective_questions(0.6, 10, 8, 0.6 * 0.4 / 8) == pytest.approx(80)
    assert effective_questions(0.6, 10, 8, 0.0) == 80
    assert effective_questions(1.0, 10, 8, 0.0) == 10


def test_the_variance_is_that_of_avg_at_k_over_sets_of_questions() -> None:
    """Against simulated benchmarks of 40 questions, some easy, some hard, with 8 answers each.

    Taking the 320 answers for independent gives less than half of it.
    """
    rng = np.random.default_rng(2)
    sets = rng.beta(0.6, 0.6, size=(4000, 40, 1))
    right = rng.random(size=(4000, 40, 8)) < sets
    true = np.var(right.mean(axis=(1, 2)))
    told = [
        share_variance(float(each.mean()), 40, spread(each.astype(float).tolist()).between)
        for each in right[:200]
    ]
    assert np.mean(told) == pytest.approx(true, rel=0.12)
    assert binomial_variance(0.5, 320) < 0.5 * true
