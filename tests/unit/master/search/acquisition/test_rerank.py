"""Eq. 27-32 against a slow, literal transcription."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from apbmm_master.search.acquisition.rerank import gap_reward, min_max, proximity_penalty, rerank

Array = npt.NDArray[np.float64]


def distance(a: Array, b: Array) -> float:
    return math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)))


def literal_front(observed: Array) -> list[Array]:
    kept = []
    for f in observed:
        beaten = any(
            all(o >= v for o, v in zip(other, f, strict=True))
            and any(o > v for o, v in zip(other, f, strict=True))
            for other in observed
        )
        if not beaten:
            kept.append(f)
    return sorted(kept, key=lambda f: float(f[0]))


def literal_gap_reward(predicted: Array, observed: Array) -> list[float]:
    f = literal_front(observed)
    if len(f) < 2:
        return [0.0] * len(predicted)
    widths = [distance(f[g], f[g + 1]) for g in range(len(f) - 1)]
    if max(widths) == 0:
        return [0.0] * len(predicted)
    high = np.array([max(v[k] for v in f) for k in range(2)])
    low = np.array([min(v[k] for v in f) for k in range(2)])
    sigma = distance(high, low) / max(len(f) - 1, 1)
    rewards = []
    for y in predicted:
        best = -math.inf
        for g in range(len(f) - 1):
            middle = 0.5 * (f[g] + f[g + 1])
            weight = widths[g] / max(widths)
            best = max(best, math.exp(-(distance(y, middle) ** 2) / (2 * sigma**2)) * weight)
        rewards.append(best)
    return rewards


def literal_penalty(x: Array, avoid: list[Array]) -> float:
    return math.exp(-4 * min(distance(x, z) for z in avoid)) if avoid else 0.0


def literal_rescale(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [0.0 if high == low else (v - low) / (high - low) for v in values]


def literal_choice(
    pool: Array, a: Array, predicted: Array, observed: Array, pending: Array, q: int
) -> list[int]:
    selected: list[int] = []
    for _ in range(q):
        avoid = [*pending, *[pool[i] for i in selected]]
        near = literal_rescale([literal_penalty(x, avoid) for x in pool])
        value = literal_rescale(a.tolist())
        gap = literal_rescale(literal_gap_reward(predicted, observed))
        j = [value[i] + 0.25 * gap[i] - 0.15 * near[i] for i in range(len(pool))]
        left = [i for i in range(len(pool)) if i not in selected]
        selected.append(max(left, key=lambda i: (j[i], -i)))
    return selected


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_equations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool, a = rng.random((12, 6)), rng.normal(-3.0, 0.3, 12)
    predicted, observed = rng.random((12, 2)), rng.random((10, 2))
    pending = rng.random((int(rng.integers(0, 4)), 6))
    np.testing.assert_allclose(
        gap_reward(predicted, np.array(literal_front(observed))),
        literal_gap_reward(predicted, observed),
        rtol=1e-12,
    )
    result = rerank(pool, a, predicted, observed, pending, 4)
    expected = literal_choice(pool, a, predicted, observed, pending, 4)
    assert result.chosen.tolist() == expected
    assert result.scores.shape == (4, 12)


def test_weights_of_zero_leave_the_acquisition_order() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(6)
    result = rerank(
        rng.random((6, 3)),
        a,
        rng.random((6, 2)),
        rng.random((5, 2)),
        rng.random((2, 3)),
        6,
        gap_weight=0.0,
        proximity_weight=0.0,
    )
    np.testing.assert_array_equal(result.chosen, np.argsort(-a))


def test_the_proximity_term_is_recomputed_after_each_pick() -> None:
    """The twin of the best candidate loses to a slightly worse one far away."""
    pool = np.array([[0.5, 0.5], [0.5, 0.5001], [0.0, 0.0], [1.0, 1.0]])
    a = np.array([1.0, 0.99, 0.98, 0.0])
    flat = np.zeros((4, 2))
    result = rerank(pool, a, flat, np.array([[0.1, 0.1]]), np.empty((0, 2)), 2)
    assert result.chosen.tolist() == [0, 2]


def test_gap_reward_without_a_gap_is_zero() -> None:
    predicted = np.array([[0.5, 0.5], [0.2, 0.9]])
    assert not gap_reward(predicted, np.array([[0.3, 0.3]])).any()
    assert not gap_reward(predicted, np.array([[0.3, 0.3], [0.3, 0.3]])).any()


def test_gap_reward_peaks_in_the_widest_gap() -> None:
    points = np.array([[0.0, 1.0], [0.1, 0.95], [1.0, 0.0]])
    rewards = gap_reward(np.array([[0.55, 0.475], [0.05, 0.975], [0.0, 2.0]]), points)
    assert rewards[0] == 1.0
    assert rewards[2] < rewards[1] < 0.7


def test_gap_reward_of_three_objectives_pairs_gabriel_neighbours() -> None:
    """The middle point lies between the outer two, which are therefore no neighbours."""
    points = np.array([[0.0, 1.0, 0.5], [0.5, 0.5, 0.55], [1.0, 0.0, 0.5]])
    rewards = gap_reward(np.array([[0.25, 0.75, 0.525], [0.5, 0.5, 0.5]]), points)
    assert rewards[0] == pytest.approx(1.0)
    # Were the outer pair neighbours, their midpoint would earn the full reward.
    assert rewards[1] < 0.9


def test_nothing_to_avoid_is_no_penalty() -> None:
    assert not proximity_penalty(np.ones((3, 2)), np.empty((0, 2))).any()


def test_a_constant_term_rescales_to_zero() -> None:
    np.testing.assert_array_equal(min_max(np.array([2.0, 2.0])), [0.0, 0.0])
    np.testing.assert_array_equal(min_max(np.array([1.0, 3.0, 2.0])), [0.0, 1.0, 0.5])
