"""Laws of the estimates of means over all questions."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from apbmm_master.search.arrays import Array
from apbmm_master.search.partial_answers.outcome_estimates import (
    Answers,
    BenchmarkEstimate,
    Outcomes,
    estimate,
)

Drawn = tuple[Outcomes, Answers, np.random.Generator]


@st.composite
def cases(draw: st.DrawFn) -> Drawn:
    """Earlier merges (some of them in part), and answers (some in flight) of another."""
    count, size = draw(st.integers(0, 9)), draw(st.integers(4, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.0, 0.3, 2.0]))
    level, hard = spread * rng.normal(size=(count + 1, 1)), spread * rng.normal(size=size)
    shape = (count + 1, size)
    scores = (level - hard + spread * rng.normal(size=shape) >= 0.0).astype(np.float64)
    tokens = np.round(np.exp(4.0 + level + hard + spread * rng.normal(size=shape)))
    known = rng.random(shape) < draw(st.sampled_from([0.2, 0.8]))
    known[:-1] |= (rng.random(count) < draw(st.sampled_from([0.5, 1.0])))[:, None]
    known[-1, : draw(st.integers(1, size))] = True
    scores, seen = np.where(known, scores, np.nan), np.where(known, tokens, np.nan)
    flying = np.where(known[-1] | (rng.random(size) < 0.7), 0.0, np.round(0.5 * tokens[-1]))
    vectors = rng.random((count + 1, 3))
    answers = Answers(scores[-1], seen[-1], flying, vectors[-1])
    return Outcomes(scores[:-1], seen[:-1], vectors[:-1]), answers, rng


def close(one: BenchmarkEstimate, other: BenchmarkEstimate) -> None:
    for quantity in ("accuracy", "tokens"):
        for part in fields(type(one.accuracy)):
            values = (getattr(getattr(each, quantity), part.name) for each in (one, other))
            assert next(values) == pytest.approx(next(values), rel=1e-5, abs=1e-9)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_estimates_are_finite_and_within_what_is_certain(drawn: Drawn) -> None:
    earlier, answers, _ = drawn
    found = estimate(earlier, answers)
    for mean in (found.accuracy, found.tokens):
        assert mean.least - 1e-9 <= mean.mean <= mean.most + 1e-9
        assert 0.0 <= mean.variance < np.inf
        inner, outer = mean.interval(0.80), mean.interval(0.95)
        assert mean.least - 1e-9 <= outer[0] <= inner[0] <= inner[1] <= outer[1] <= mean.most + 1e-9


@given(cases())
@settings(max_examples=40, deadline=None)
def test_the_order_of_questions_and_of_merges_changes_nothing(drawn: Drawn) -> None:
    earlier, answers, rng = drawn
    count, size = earlier.scores.shape
    merges, questions = rng.permutation(count), rng.permutation(size)
    assert earlier.vectors is not None
    assert answers.generated is not None
    moved = Outcomes(
        earlier.scores[merges][:, questions],
        earlier.tokens[merges][:, questions],
        earlier.vectors[merges],
    )
    own = Answers(
        answers.scores[questions],
        answers.tokens[questions],
        answers.generated[questions],
        answers.vector,
    )
    close(estimate(earlier, answers), estimate(moved, own))


def nothing_answered() -> Drawn:
    """An earlier merge without any answer, which says nothing."""
    none, own = np.full((1, 4), np.nan), np.array([1.0, np.nan, np.nan, np.nan])
    return Outcomes(none, none), Answers(own, own), np.random.default_rng(0)


@given(cases(), st.sampled_from([0.0, 1.0]))
@example(nothing_answered(), 0.0)
@settings(max_examples=20, deadline=None)
def test_where_every_answer_is_alike_so_is_the_estimate(drawn: Drawn, score: float) -> None:
    earlier, answers, _ = drawn

    def alike(rows: Array, value: float) -> Array:
        return np.where(np.isfinite(rows), value, np.nan)

    found = estimate(
        Outcomes(alike(earlier.scores, score), alike(earlier.tokens, 7.0)),
        Answers(alike(answers.scores, score), alike(answers.tokens, 7.0)),
    )
    low, high = found.accuracy.interval(0.999)
    assert low - 1e-9 <= score <= high + 1e-9
    assert found.tokens.mean == pytest.approx(7.0, rel=0.05)


def test_more_answers_do_not_widen_the_estimate_on_average() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for _ in range(12):
        level, hard = rng.normal(size=(15, 1)), rng.normal(size=80)
        noise = rng.normal(size=(15, 80))
        scores = (level - hard + noise > 0.0).astype(np.float64)
        tokens = np.exp(5.0 + 0.5 * level + 0.5 * hard + 0.4 * noise)
        row = []
        for answered in (8, 16, 32, 56, 72, 80):
            nan = np.where(np.arange(80) < answered, 0.0, np.nan)
            found = estimate(
                Outcomes(scores[1:], tokens[1:]), Answers(scores[0] + nan, tokens[0] + nan)
            )
            row.append((found.accuracy.variance**0.5, found.tokens.variance**0.5))
        widths.append(row)
    means = np.mean(widths, axis=0)
    assert (np.diff(means, axis=0) < 0.0).all()
    assert (means[-1] == 0.0).all()
