"""Means over all questions from the answers to some: known cases, bounds, real outcomes."""

from __future__ import annotations

import numpy as np
import pytest

from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import SearchError, WrongShapeError
from apbmm_master.search.partial_answers.outcome_estimates import (
    PARTICULAR_SHARE,
    PRIOR_ANSWERS,
    Answers,
    Estimator,
    Outcomes,
    estimate,
    particular_variances,
)
from apbmm_master.search.partial_answers.outcome_model import FEW_MERGES, question_variances
from demo_outcomes import demo_outcomes


def simulated(count: int, size: int, seed: int) -> tuple[Array, Array]:
    """Scores and tokens (count, size) with levels of merges and questions."""
    rng = np.random.default_rng(seed)
    level, hard = rng.normal(size=(count, 1)), rng.normal(size=size)
    scores = (level - hard + rng.normal(size=(count, size)) > 0.0).astype(np.float64)
    tokens = np.round(np.exp(6.0 + 0.5 * level + 0.5 * hard + 0.3 * rng.normal(size=(count, size))))
    return scores, tokens


def first(answered: int, row: Array) -> Array:
    return np.where(np.arange(len(row)) < answered, row, np.nan)


def nothing(size: int) -> Outcomes:
    return Outcomes(np.empty((0, size)), np.empty((0, size)))


def test_with_every_answer_the_means_are_exact() -> None:
    scores, tokens = simulated(5, 30, seed=0)
    found = estimate(Outcomes(scores[1:], tokens[1:]), Answers(scores[0], tokens[0]))
    assert found.accuracy.mean == pytest.approx(scores[0].mean(), abs=1e-15)
    assert found.tokens.mean == pytest.approx(tokens[0].mean(), rel=1e-15)
    assert found.accuracy.variance == found.tokens.variance == 0.0
    assert found.tokens.interval(0.95) == (found.tokens.mean, found.tokens.mean)


def test_without_earlier_merges_it_is_the_plain_mean() -> None:
    scores, tokens = simulated(1, 50, seed=1)
    answers = Answers(first(20, scores[0]), first(20, tokens[0]))
    found = estimate(nothing(50), answers)
    assert found.accuracy.mean == pytest.approx(scores[0, :20].mean())
    assert found.tokens.mean == pytest.approx(tokens[0, :20].mean())
    # The variance of a mean of 20 of 50 questions, of which the 30 others are unknown.
    share = (scores[0, :20].sum() + 1.0) / 22.0
    binomial = 30**2 / 50**2 * share * (1.0 - share) * (1 / 30 + 1 / 20)
    assert found.accuracy.variance == pytest.approx(binomial, rel=0.25)


def test_without_an_answer_it_is_the_mean_of_the_earlier_merges() -> None:
    scores, tokens = simulated(8, 40, seed=2)
    none = np.full(40, np.nan)
    found = estimate(Outcomes(scores, tokens), Answers(none, none))
    assert found.accuracy.mean == pytest.approx(scores.mean(), abs=1e-9)
    low, high = found.accuracy.interval(0.95)
    assert low < scores.mean(axis=1).min() + 0.05
    assert high > scores.mean(axis=1).max() - 0.05


def test_questions_that_all_earlier_merges_answer_alike_are_nearly_known() -> None:
    scores = np.tile(np.repeat([1.0, 0.0], [30, 10]), (6, 1))
    tokens = np.full((6, 40), 100.0)
    answers = Answers(first(10, scores[0]), first(10, tokens[0]))
    found = estimate(Outcomes(scores, tokens), answers)
    assert found.accuracy.mean == pytest.approx(0.75, abs=0.02)
    assert found.tokens.mean == pytest.approx(100.0, rel=0.01)


def test_a_difficult_prefix_is_allowed_for() -> None:
    rng = np.random.default_rng(3)
    hard = np.linspace(2.0, -2.0, 60)
    level = rng.normal(size=(21, 1))
    scores = (level - hard + 0.3 * rng.normal(size=(21, 60)) > 0.0).astype(np.float64)
    tokens = np.full(scores.shape, 10.0)
    answers = Answers(first(30, scores[20]), first(30, tokens[20]))
    found = estimate(Outcomes(scores[:20], tokens[:20]), answers)
    plain = scores[20, :30].mean()
    truth = scores[20].mean()
    assert abs(found.accuracy.mean - truth) < 0.3 * abs(plain - truth)


def test_an_answer_in_flight_is_a_lower_bound() -> None:
    scores, tokens = simulated(12, 40, seed=4)
    answers = Answers(first(10, scores[0]), first(10, tokens[0]))
    flying = np.where(np.isin(np.arange(40), [20, 21, 22]), 50_000.0, 0.0)
    earlier = Outcomes(scores[1:], tokens[1:])
    without = estimate(earlier, answers).tokens
    found = estimate(earlier, Answers(answers.scores, answers.tokens, flying)).tokens
    assert found.mean > found.least == (np.nansum(answers.tokens) + 150_000.0) / 40
    assert found.mean > without.mean + 3 * 45_000 / 40
    # A bound that nobody doubted anyway changes nothing.
    barely = np.where(flying > 0.0, 1.0, 0.0)
    same = estimate(earlier, Answers(answers.scores, answers.tokens, barely)).tokens
    assert same.mean == pytest.approx(without.mean, rel=0.02)


def test_answers_in_flight_tell_that_a_merge_rambles() -> None:
    """Without the bounds the short answers that are in look like all of them."""
    rng = np.random.default_rng(5)
    level = np.linspace(-0.5, 0.5, 15)[:, None]
    tokens = np.exp(6.0 + level + 0.8 * rng.normal(size=(15, 100)))
    scores = np.ones_like(tokens)
    row, limit = tokens[12], np.quantile(tokens[12, :60], 0.5)
    begun = np.arange(100) < 60
    finished = begun & (row <= limit)
    partial = np.where(finished, row, np.nan)
    flying = np.where(begun & ~finished, limit, 0.0)
    earlier = Outcomes(np.delete(scores, 12, 0), np.delete(tokens, 12, 0))
    blind = estimate(earlier, Answers(np.where(finished, 1.0, np.nan), partial)).tokens
    found = estimate(earlier, Answers(np.where(finished, 1.0, np.nan), partial, flying)).tokens
    truth = row.mean()
    assert abs(found.mean - truth) < 0.5 * abs(blind.mean - truth)
    low, high = found.interval(0.95)
    assert low < truth < high


def test_a_step_that_cuts_its_last_answers_is_centred_with_the_sources_alone() -> None:
    """Two sources far apart say little of how much a merge's own answers vary."""
    ratios = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        level, hard = np.array([[-0.8], [0.8], [rng.uniform(-0.8, 0.8)]]), rng.normal(size=130)
        tokens = np.exp(8.0 + level + 0.5 * hard + 0.5 * rng.normal(size=(3, 130)))
        begun = np.arange(130) < 39
        limit = np.quantile(tokens[2, begun], 0.8)
        finished = begun & (tokens[2] <= limit)
        answers = Answers(
            np.where(finished, 1.0, np.nan),
            np.where(finished, tokens[2], np.nan),
            np.where(begun & ~finished, limit, 0.0),
        )
        found = estimate(Outcomes(np.ones((2, 130)), tokens[:2]), answers).tokens
        ratios.append(found.mean / tokens[2].mean())
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.12)


def test_answers_to_questions_of_one_difficulty_do_not_make_the_variance_explode() -> None:
    sources = np.array([[0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]] * 2)
    scores = np.array([1.0, 0.0, 1.0] + [np.nan] * 7)
    tokens = np.where(np.isfinite(scores), 10.0, np.nan)
    found = estimate(Outcomes(sources, np.full((2, 10), 10.0)), Answers(scores, tokens))
    assert found.accuracy.variance < 0.25


@pytest.mark.parametrize("complete", [3, 12])
def test_earlier_merges_may_have_answered_in_part(complete: int) -> None:
    """A few complete merges are helped out by others, many are taken alone."""
    scores, tokens = simulated(30, 60, seed=6)
    known = (np.arange(60) < 20) | (np.arange(29) < complete)[:, None]
    part = Outcomes(np.where(known, scores[:29], np.nan), np.where(known, tokens[:29], np.nan))
    alone = Outcomes(scores[:complete], tokens[:complete])
    answers = Answers(first(20, scores[29]), first(20, tokens[29]))
    found, few = estimate(part, answers), estimate(alone, answers)
    whole = estimate(Outcomes(scores[:29], tokens[:29]), answers)
    assert found.accuracy.mean == pytest.approx(whole.accuracy.mean, abs=0.08)
    assert found.tokens.mean == pytest.approx(whole.tokens.mean, rel=0.2)
    assert (found == few) is (complete == 12)


def test_nothing_known_and_wrong_shapes_are_refused() -> None:
    none = np.full(10, np.nan)
    with pytest.raises(SearchError, match="without any answer"):
        estimate(nothing(10), Answers(none, none))
    with pytest.raises(WrongShapeError, match="each of 10 questions"):
        estimate(nothing(10), Answers(none[:5], none))
    with pytest.raises(WrongShapeError, match="same shape"):
        Outcomes(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(WrongShapeError, match="vector for each merge"):
        Outcomes(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((1, 4)))


@pytest.mark.parametrize("answered", [24, 117])
def test_real_merges_are_estimated_better_than_by_the_plain_mean(answered: int) -> None:
    """Merges of one search of the demo pair, from those of another."""
    first_run, second_run = demo_outcomes("trail")[:2]
    order = np.random.default_rng(0).permutation(first_run.scores.shape[1])
    done = np.isin(np.arange(len(order)), order[:answered])
    errors, inside = [], []
    for vector, scores, tokens in zip(
        second_run.vectors[2::2], second_run.scores[2::2], second_run.tokens[2::2], strict=True
    ):
        found = estimate(
            Outcomes(first_run.scores, first_run.tokens, first_run.vectors),
            Answers(np.where(done, scores, np.nan), np.where(done, tokens, np.nan), vector=vector),
        )
        for estimated, row in ((found.accuracy, scores), (found.tokens, tokens)):
            truth = row.mean()
            errors.append((abs(estimated.mean - truth) / truth, abs(row[done].mean() / truth - 1)))
            low, high = estimated.interval(0.95)
            inside.append(low <= truth <= high)
    ours, plain = np.sqrt(np.mean(np.square(errors), axis=0))
    assert ours < 0.5 * plain
    assert np.mean(inside) > 0.85


def test_variances_leave_out_what_merges_share() -> None:
    """Levels of merges and questions, and a skill that some questions need, are no noise."""
    rng = np.random.default_rng(7)
    shared = rng.normal(size=(40, 1)) + 3.0 * rng.normal(size=200)
    shared = shared + rng.normal(size=(40, 1)) * rng.normal(size=200)
    values = shared + 0.5 * rng.normal(size=(40, 200))
    found = particular_variances(values)
    assert found.mean() == pytest.approx(0.25 / 200, rel=0.2)
    assert values.var(axis=1).mean() / 200 > 30 * found.mean()


def left_out_one_by_one(values: Array) -> Array:
    """`particular_variances` by inverses of size Q: each answer of each merge from all the others.

    The covariance of questions is that among the other merges, with the module's shrunken variances
    and its constant column.
    """
    count, size = values.shape
    around = (values - values.mean(axis=0)) * count / (count - 1)
    variances = question_variances(values, around, bool(values.max() <= 1.0))
    own = np.diag((1.0 - PARTICULAR_SHARE) * variances)
    constant = np.full((size, size), variances.mean() * FEW_MERGES / (count + FEW_MERGES))
    squares = np.empty(count)
    for i in range(count):
        others = np.delete(values, i, axis=0)
        centred = others - others.mean(axis=0)
        shared = PARTICULAR_SHARE * centred.T @ centred / (count - 1)
        precision = np.linalg.inv(shared + constant + own)
        differences = precision @ (values[i] - others.mean(axis=0)) / np.diag(precision)
        squares[i] = (differences**2).sum()
    pooled = (squares + PRIOR_ANSWERS * squares.mean() / size) / (PRIOR_ANSWERS + size)
    return np.asarray(pooled / size)


@pytest.mark.parametrize("count", [3, 5, 14])
def test_variances_are_those_of_answers_left_out_one_by_one(count: int) -> None:
    """Their closed form, with inverses of the merges' number, is exact."""
    for values in simulated(count, 40, seed=count):
        np.testing.assert_allclose(particular_variances(values), left_out_one_by_one(values))


def test_draws_count_in_full_where_each_merge_has_its_own_and_less_with_the_same_seeds() -> None:
    """A run gives an answer the same seed in all merges, and similar merges then draw alike."""
    rng = np.random.default_rng(9)
    repeats, size, count = 3, 200, 12
    weights, questions = rng.random((count, 1)), rng.normal(0.0, 2.0, size)
    right = 1.0 / (1.0 + np.exp(questions - 6.0 * (weights - 0.5)))
    for draws, least, most in (
        (rng.random((count, size, repeats)), 1.0, 1.6),
        (rng.random((1, size, repeats)), 0.1, 0.5),
    ):
        answers = (draws < right[:, :, None]).astype(np.float64)
        of_draws = answers.var(axis=2, ddof=1).mean() / (size * repeats)
        ratio = particular_variances(answers.mean(axis=2)).mean() / of_draws
        assert least < ratio < most


def test_a_noisy_merge_has_a_larger_variance() -> None:
    rng = np.random.default_rng(8)
    noise = np.where(np.arange(20) == 3, 2.0, 0.5)[:, None]
    values = rng.normal(size=300) + noise * rng.normal(size=(20, 300))
    found = particular_variances(values)
    assert found.argmax() == 3
    assert found[3] == pytest.approx(4.0 / 300, rel=0.3)


def test_real_merges_share_most_of_their_noise() -> None:
    """The variance of differences of similar merges is a fifth of what binomial ones say."""
    for benchmark in ("chain", "trail"):
        scores = demo_outcomes(benchmark)[0].scores
        binomial = scores.var(axis=1).mean() / scores.shape[1]
        assert 0.1 < particular_variances(scores).mean() / binomial < 0.25


def test_variances_need_two_merges() -> None:
    assert particular_variances(np.array([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])).shape == (2,)
    with pytest.raises(WrongShapeError, match="two merges"):
        particular_variances(np.zeros((1, 5)))


def test_estimates_of_many_merges_are_those_of_each_alone() -> None:
    """What is shared between them leaves no trace of one in another, in whatever order."""
    scores, tokens = simulated(16, 30, seed=8)
    vectors = np.random.default_rng(8).random((16, 4))
    earlier = Outcomes(scores[:12], tokens[:12], vectors[:12])
    each = [
        Answers(first(6 + i, scores[i]), first(6 + i, tokens[i]), vector=vectors[i])
        for i in (12, 13, 14, 15)
    ]
    alone = [estimate(earlier, answers) for answers in each]
    together = Estimator(earlier)
    assert [together.estimate(answers) for answers in reversed(each)] == alone[::-1]
    assert len({found.accuracy.mean for found in alone}) == 4
