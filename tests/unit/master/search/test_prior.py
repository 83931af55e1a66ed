"""Eq. 6-14 against a slow, literal transcription."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from apbmm_master.search.errors import NotFiniteError, SettingError, WrongShapeError
from apbmm_master.search.prior import (
    descending_rank,
    importance,
    initial_lengthscales,
    rescale,
    smooth,
)


def literal_rescale(values: list[float]) -> list[float]:
    middle = statistics.median(values)
    mad = statistics.median([abs(v - middle) for v in values])
    if mad == 0:
        return [0.5] * len(values)
    return [1 / (1 + math.exp(-(v - middle) / (1.4826 * mad))) for v in values]


def literal_importance(p: list[float], a: list[float], k1: float) -> list[float]:
    sp, sa = literal_rescale(p), literal_rescale(a)
    c = [k1 * sp[layer] + (1 - k1) * sa[layer] for layer in range(len(p))]
    s = []
    for layer in range(len(c)):
        if layer in {0, len(c) - 1}:
            s.append(c[layer])
        else:
            s.append(0.25 * c[layer - 1] + 0.5 * c[layer] + 0.25 * c[layer + 1])
    return s


def literal_lengthscales(s: list[float]) -> list[float]:
    lengthscales = []
    for layer in range(len(s)):
        rank = sum(
            s[other] > s[layer] or (s[other] == s[layer] and other < layer)
            for other in range(len(s))
        )
        r = rank / max(len(s) - 1, 1)
        lengthscales.append(0.5 if r <= 0.15 else 1.0 if r <= 0.40 else 2.0 if r <= 0.70 else 5.0)
    return lengthscales


@pytest.mark.parametrize("layers", [1, 2, 3, 8, 21, 36])
@pytest.mark.parametrize("k1", [0.5, 0.0, 0.8])
def test_importance_and_lengthscales_are_the_equations(layers: int, k1: float) -> None:
    rng = np.random.default_rng(layers)
    p, a = rng.lognormal(size=layers), rng.lognormal(sigma=2.0, size=layers)
    fused = importance(p, a, parameter_weight=k1)
    expected = literal_importance(p.tolist(), a.tolist(), k1)
    np.testing.assert_allclose(fused, expected, rtol=1e-12)
    np.testing.assert_array_equal(initial_lengthscales(fused), literal_lengthscales(expected))


def test_rescaling_without_spread_gives_one_half() -> None:
    np.testing.assert_array_equal(rescale([3.0, 3.0, 3.0, 9.0]), [0.5, 0.5, 0.5, 0.5])
    assert len(rescale([])) == 0


def test_rescaling_survives_outliers_of_any_size() -> None:
    scaled = rescale([0.0, 1.0, 2.0, 1e300, -1e300])
    assert scaled[3] == 1.0
    assert scaled[4] == 0.0


def test_smoothing_leaves_the_ends() -> None:
    np.testing.assert_allclose(smooth([4.0, 0.0, 0.0, 8.0]), [4.0, 1.0, 2.0, 8.0])
    np.testing.assert_array_equal(smooth([1.0, 2.0]), [1.0, 2.0])


def test_ties_go_to_the_lower_layer() -> None:
    np.testing.assert_array_equal(descending_rank([0.5, 0.9, 0.5, 0.9]), [2, 0, 3, 1])


def test_lengthscales_at_the_steps() -> None:
    # 21 layers: ranks 0.00, 0.05, ... 1.00, so every boundary of Eq. 14 is hit exactly.
    lengthscales = initial_lengthscales(np.linspace(1.0, 0.0, 21))
    assert [int((lengthscales == value).sum()) for value in (0.5, 1.0, 2.0, 5.0)] == [4, 5, 6, 6]


def test_the_parameter_branch_can_stand_alone() -> None:
    p = [1.0, 5.0, 2.0, 9.0]
    np.testing.assert_array_equal(importance(p, None), smooth(rescale(p)))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(NotFiniteError):
        rescale([1.0, np.nan])
    with pytest.raises(WrongShapeError):
        importance([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(WrongShapeError):
        rescale([[1.0], [2.0]])
    with pytest.raises(SettingError):
        importance([1.0], [1.0], parameter_weight=1.5)
