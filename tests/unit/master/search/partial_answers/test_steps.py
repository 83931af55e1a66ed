"""Choices between merges measured in part: bounds, expected gains, the budget's end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apbmm_master.search.errors import WrongShapeError
from apbmm_master.search.pareto import front, hypervolume
from apbmm_master.search.partial_answers.steps import (
    Paused,
    audited,
    certainly_beaten,
    chance_of_feasibility,
    completed_next,
    expected_gain,
    reserve,
    step_ends,
)

REFERENCE = np.array([-0.2, -0.2])
MEASURED = np.array([[0.0, 1.0], [0.5, 0.7], [0.4, 0.6], [1.0, 0.0], [-0.5, 2.0]])


def paused(mean: tuple[float, float], cost: float = 1.0) -> Paused:
    return Paused(np.array(mean), np.array([0.1, 0.1]), cost)


def test_steps_end_with_all_questions_and_never_repeat() -> None:
    assert step_ends(130, (0.15, 0.3, 0.6, 1.0)) == (20, 39, 78, 130)
    assert step_ends(2, (0.1, 0.2, 0.9)) == (1, 2)
    assert step_ends(1, (0.5,)) == (1,)


def test_expected_gain_is_the_mean_improvement_of_samples() -> None:
    mean = np.array([[0.6, 0.6], [0.2, 0.2], [1.1, 0.3]])
    deviation = np.array([[0.1, 0.2], [0.05, 0.3], [0.2, 0.05]])
    rng = np.random.default_rng(0)
    before = hypervolume(MEASURED, REFERENCE)
    for m, s, gain in zip(
        mean, deviation, expected_gain(mean, deviation, MEASURED, REFERENCE), strict=True
    ):
        samples = rng.normal(m, s, (4000, 2))
        gains = [hypervolume(np.vstack([MEASURED, y]), REFERENCE) - before for y in samples]
        assert gain == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / np.sqrt(4000))


def test_expected_gain_without_a_front_or_a_deviation() -> None:
    sure = expected_gain(np.array([[0.3, 0.8]]), np.zeros((1, 2)), np.empty((0, 2)), REFERENCE)
    assert sure == pytest.approx([0.5])
    with pytest.raises(WrongShapeError, match="two objectives, not 3"):
        expected_gain(np.zeros((1, 3)), np.ones((1, 3)), np.empty((0, 3)), np.zeros(3))


def test_the_chance_of_feasibility_is_the_share_of_samples_that_meet_all_limits() -> None:
    mean, deviation = np.array([0.05, -0.1]), np.array([0.1, 0.2])
    samples = np.random.default_rng(0).normal(mean, deviation, (40_000, 2))
    share = (samples >= 0.0).all(axis=1).mean()
    assert chance_of_feasibility(mean, deviation) == pytest.approx(share, abs=0.01)
    assert chance_of_feasibility(np.zeros(0), np.zeros(0)) == 1.0
    known = [chance_of_feasibility(np.array([m]), np.zeros(1)) for m in (0.001, -0.001)]
    assert known == [1.0, 0.0]


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_the_exact_bound_never_stops_a_member_of_the_final_front(seed: int, answered: int) -> None:
    rng = np.random.default_rng(seed)
    scores, tokens = rng.integers(0, 2, (8, 12)), rng.integers(1, 40, (8, 12))
    objectives = np.stack([scores.sum(axis=1), -tokens.sum(axis=1)], axis=1).astype(float)
    known = slice(0, answered)
    for i in range(8):
        best = np.array([scores[i, known].sum() + 12 - answered, -tokens[i, known].sum()], float)
        others = np.delete(objectives, i, axis=0)
        if certainly_beaten(best, others):
            together = np.unique(np.vstack([others, objectives[i]]), axis=0)
            without = np.unique(others, axis=0)
            assert np.array_equal(together[front(together)], without[front(without)])


def test_the_reserve_counts_what_the_front_of_estimates_lacks() -> None:
    merges = [paused((0.9, 0.9), cost=3.0), paused((0.1, 0.1), cost=5.0)]
    assert reserve(merges, MEASURED) == 3.0
    assert reserve([], MEASURED) == 0.0


def test_the_end_of_the_budget_takes_gain_for_cost_and_only_what_it_can_pay() -> None:
    merges = [paused((0, 0), cost=2.0), paused((0, 0), cost=1.0), paused((0, 0), cost=9.0)]
    gains = np.array([0.3, 0.2, 5.0])
    assert completed_next(merges, gains, left=4.0) == 1
    assert completed_next(merges, gains, left=9.0) == 2
    assert completed_next(merges, gains, left=0.5) is None


def test_a_tenth_of_the_evaluations_is_audited_and_always_the_same_ones() -> None:
    drawn = [audited(7, number) for number in range(2000)]
    assert drawn == [audited(7, number) for number in range(2000)]
    assert 150 < sum(drawn) < 250
