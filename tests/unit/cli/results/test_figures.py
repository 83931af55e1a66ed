"""Intervals of measured figures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from apbmm.results.figures import BenchmarkFigures, Figure, mean_figure, wilson
from apbmm_common.repetitions import spread
from apbmm_master.journal.storage.store import OutcomeSums


def figures(scores: list[float], tokens: list[int], truncated: int = 0) -> BenchmarkFigures:
    return BenchmarkFigures(
        {
            "accuracy": float(np.mean(scores)),
            "tokens": float(np.mean(tokens)),
            "truncated": truncated / len(scores),
            "seconds": 2.0,
        },
        len(scores),
        truncated,
        0,
        OutcomeSums(
            len(scores), sum(scores), sum(s * s for s in scores), sum(tokens),
            sum(t * t for t in tokens),
        ),
    )  # fmt: skip


@pytest.mark.parametrize(("count", "questions"), [(0, 1), (0, 40), (13, 40), (40, 40), (200, 234)])
def test_wilson_is_scipys(count: int, questions: int) -> None:
    expected = binomtest(count, questions).proportion_ci(0.95, method="wilson")
    assert wilson(count, questions) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_right_or_wrong_answers_have_wilsons_interval() -> None:
    figure = figures([1.0, 1.0, 0.0, 1.0], [1, 2, 3, 4]).figure("accuracy")
    assert figure is not None
    assert (figure.low, figure.high) == wilson(3, 4)
    assert figure.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


def test_answers_that_are_right_in_part_have_a_standard_error() -> None:
    scores = [0.5, 1.0, 0.25, 0.25]  # their sum is a whole number, which is chance
    figure = figures(scores, [1, 2, 3, 4]).figure("accuracy")
    assert figure is not None
    error = np.std(scores, ddof=1) / 2
    assert figure.standard_error == pytest.approx(error)
    assert figure.low == pytest.approx(max(0.0, 0.5 - 1.959964 * error))
    assert figure.high == pytest.approx(min(1.0, 0.5 + 1.959964 * error))


def test_tokens_have_a_standard_error_and_are_not_negative() -> None:
    tokens = [10, 20, 400, 10]
    measured = figures([1.0] * 4, tokens)
    figure = measured.figure("tokens")
    assert figure is not None
    assert figure.standard_error == pytest.approx(np.std(tokens, ddof=1) / 2)
    assert figure.low == 0.0
    assert measured.tokens == 440


def test_truncated_answers_are_a_share_and_other_metrics_have_no_interval() -> None:
    measured = figures([1.0] * 4, [1] * 4, truncated=1)
    truncated = measured.figure("truncated")
    assert truncated is not None
    assert (truncated.value, truncated.low, truncated.high) == (0.25, *wilson(1, 4))
    assert measured.figure("seconds") == Figure(2.0)
    assert measured.figure("f1") is None


def repeated(scores: list[list[float]], tokens: list[list[int]]) -> BenchmarkFigures:
    """The figures of questions with several answers each."""
    every = [float(score) for group in scores for score in group]
    counts = [count for group in tokens for count in group]
    spreads = {"accuracy": spread(scores), "tokens": spread(tokens)}
    return replace(
        figures(every, counts), questions=len(scores), repeats=len(scores[0]), spreads=spreads
    )


def test_several_answers_to_a_question_are_not_several_questions() -> None:
    scores = [[1.0, 1.0, 0.0, 1.0], [0.0] * 4, [1.0] * 4, [0.0, 0.0, 1.0, 0.0], [1.0] * 4]
    tokens = [[10, 12, 14, 12], [40] * 4, [20] * 4, [30, 31, 29, 30], [20] * 4]
    measured = repeated(scores, tokens)
    means = np.mean(scores, axis=1)
    accuracy = measured.figure("accuracy")
    assert accuracy is not None
    assert accuracy.value == pytest.approx(0.6)
    assert accuracy.standard_error == pytest.approx(np.std(means, ddof=1) / math.sqrt(5))
    alone = float(0.6 * 0.4 * 5 / np.var(means, ddof=1))
    assert 5 < alone < 20
    assert (accuracy.low, accuracy.high) == pytest.approx(wilson(0.6 * alone, alone))
    length = measured.figure("tokens")
    assert length is not None
    error = np.std(np.mean(tokens, axis=1), ddof=1) / math.sqrt(5)
    assert length.standard_error == pytest.approx(error)
    assert length.low == pytest.approx(length.value - 1.959964 * error)
    assert measured.answers == 20
    assert measured.tokens == sum(map(sum, tokens))


def test_answers_that_are_all_alike_tell_what_one_to_each_question_tells() -> None:
    alike = repeated([[1.0] * 8] * 3 + [[0.0] * 8] * 2, [[5] * 8] * 5).figure("accuracy")
    once = figures([1.0] * 3 + [0.0] * 2, [5] * 5).figure("accuracy")
    assert alike is not None
    assert once is not None
    assert (alike.low, alike.high) == pytest.approx((once.low, once.high))
    right = repeated([[1.0] * 8] * 5, [[5] * 8] * 5).figure("accuracy")
    assert right is not None
    assert (right.low, right.high) == wilson(5, 5)


def test_partly_right_answers_and_metrics_that_not_all_answers_have() -> None:
    measured = repeated([[0.5, 1.0], [0.25, 0.25], [0.0, 1.0]], [[5, 5]] * 3)
    accuracy = measured.figure("accuracy")
    assert accuracy is not None
    assert accuracy.standard_error is not None
    assert accuracy.low == pytest.approx(accuracy.value - 1.959964 * accuracy.standard_error)
    assert measured.figure("seconds") == Figure(2.0)


def test_without_single_answers_a_whole_count_still_is_a_share() -> None:
    whole = BenchmarkFigures({"accuracy": 0.3, "tokens": 50.0}, 10, 0, 0)
    accuracy = whole.figure("accuracy")
    assert accuracy is not None
    assert (accuracy.low, accuracy.high) == wilson(3, 10)
    assert whole.figure("tokens") == Figure(50.0)
    assert whole.tokens == 500.0
    partial = BenchmarkFigures({"accuracy": 0.35}, 10, 0, 0)
    assert partial.figure("accuracy") == Figure(0.35)


def test_the_mean_over_benchmarks_adds_the_sides_in_squares() -> None:
    one, two = Figure(0.5, 0.4, 0.7, 0.06), Figure(0.9, 0.6, 1.0, 0.08)
    mean = mean_figure([one, two])
    assert mean is not None
    assert mean.value == pytest.approx(0.7)
    assert mean.low == pytest.approx(0.7 - math.sqrt(0.1**2 + 0.3**2) / 2)
    assert mean.high == pytest.approx(0.7 + math.sqrt(0.2**2 + 0.1**2) / 2)
    assert mean.standard_error == pytest.approx(0.05)
    assert mean_figure([one]) == one
    assert mean_figure([one, None]) is None
    assert mean_figure([]) is None
    bare = mean_figure([one, Figure(0.1)])
    assert bare is not None
    assert (bare.low, bare.standard_error) == (None, None)
