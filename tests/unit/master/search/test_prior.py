"""Eq. 6-14 against a slow, literal transcription."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from apbmm_master.search.errors import NotFiniteError, SettingError, WrongShapeError
from apbmm_master.search.prior import (
    Discrepancies,
    component_importance,
    descending_rank,
    initial_lengthscales,
    layer_importance,
    rescale,
    smooth,
)


def literal_rescale(values: list[float]) -> list[float]:
    middle = statistics.median(values)
    mad = statistics.median([abs(v - middle) for v in values])
    if max(values) == min(values):
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
        rank = sum(s[other] > s[layer] for other in range(len(s)))
        r = rank / max(len(s) - 1, 1)
        lengthscales.append(0.5 if r <= 0.15 else 1.0 if r <= 0.40 else 2.0 if r <= 0.70 else 5.0)
    return lengthscales


@pytest.mark.parametrize("layers", [1, 2, 3, 8, 21, 36])
@pytest.mark.parametrize("k1", [0.5, 0.0, 0.8])
def test_importance_and_lengthscales_are_the_equations(layers: int, k1: float) -> None:
    rng = np.random.default_rng(layers)
    p, a = rng.lognormal(size=layers), rng.lognormal(sigma=2.0, size=layers)
    fused = layer_importance(p, a, parameter_weight=k1)
    expected = literal_importance(p.tolist(), a.tolist(), k1)
    np.testing.assert_allclose(fused, expected, rtol=1e-12)
    np.testing.assert_array_equal(initial_lengthscales(fused), literal_lengthscales(expected))


def test_without_a_mad_the_range_is_the_scale() -> None:
    """More than half of the layers alike, as with LoRA on a few layers."""
    values = [0.0] * 5 + [2.0, 1.0, 4.0]
    expected = [1 / (1 + math.exp(-v / 4.0)) for v in values]
    np.testing.assert_allclose(rescale(values), expected, rtol=1e-12)
    np.testing.assert_allclose(rescale([3.0, 3.0, 3.0, 1.0])[3], 1 / (1 + math.e), rtol=1e-12)
    # Other values on the scale of these: median 0, range 4.
    np.testing.assert_allclose(rescale([8.0], values), [1 / (1 + math.exp(-2.0))], rtol=1e-12)


def test_layers_that_are_all_alike_score_one_half() -> None:
    np.testing.assert_array_equal(rescale([3.0, 3.0, 3.0]), [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(rescale([9.0], [3.0, 3.0]), [0.5])
    assert len(rescale([])) == 0


def test_rescaling_survives_outliers_of_any_size() -> None:
    scaled = rescale([0.0, 1.0, 2.0, 1e300, -1e300])
    assert scaled[3] == 1.0
    assert scaled[4] == 0.0


def test_smoothing_leaves_the_ends() -> None:
    np.testing.assert_allclose(smooth([4.0, 0.0, 0.0, 8.0]), [4.0, 1.0, 2.0, 8.0])
    np.testing.assert_array_equal(smooth([1.0, 2.0]), [1.0, 2.0])


def test_tied_layers_share_the_mean_of_their_ranks() -> None:
    np.testing.assert_array_equal(descending_rank([0.5, 0.9, 0.5, 0.9]), [2.5, 0.5, 2.5, 0.5])
    np.testing.assert_array_equal(descending_rank([0.1, 0.3, 0.2]), [2, 0, 1])
    np.testing.assert_array_equal(descending_rank([]), [])
    np.testing.assert_array_equal(initial_lengthscales([0.5] * 9), [2.0] * 9)


def test_of_lora_like_layers_only_those_that_differ_get_short_lengthscales() -> None:
    """36 layers, of which the adapters moved 12 to 15, one more than the other."""
    moved = {12: 0.2, 13: 0.4, 14: 0.3, 15: 0.1}
    discrepancy = [moved.get(layer, 0.0) for layer in range(36)]
    scores = layer_importance(discrepancy, discrepancy)
    np.testing.assert_allclose(scores[[0, 5, 35]], 0.5, atol=1e-12)
    at_13 = [1 / (1 + math.exp(-moved[layer] / 0.4)) for layer in (12, 13, 14)]
    np.testing.assert_allclose(scores[13], np.dot([0.25, 0.5, 0.25], at_13), rtol=1e-12)
    lengthscales = initial_lengthscales(scores)
    # Smoothing reaches one layer to each side; the 30 others share rank 20.5 of 35.
    assert [layer for layer in range(36) if lengthscales[layer] < 2.0] == [11, 12, 13, 14, 15, 16]
    assert set(lengthscales[:11]) | set(lengthscales[17:]) == {2.0}


def test_equal_layers_are_tied_although_smoothing_rounds_them_differently() -> None:
    """The end layers are not smoothed; 0.25 v + 0.5 v + 0.25 v is not always v."""
    scores = smooth(np.full(9, 0.1 + 0.2))
    np.testing.assert_array_equal(descending_rank(scores), np.full(9, 4.0))


def test_layers_that_are_not_searched_take_no_part() -> None:
    found = Discrepancies(
        parameter=(5.0, 0.0, 1.0, 0.0, 3.0, 2.0),
        activation=(0.1, 0.0, 0.3, 0.0, 0.2, 0.6),
        components=(0, None, 0, None, 1, 2),
        outside=(3.0, None),
        parameter_weight=0.7,
    )
    scores = layer_importance([5.0, 1.0, 3.0, 2.0], [0.1, 0.3, 0.2, 0.6], 0.7)
    head = rescale([3.0], [5.0, 1.0, 3.0, 2.0])[0]
    expected = [scores[:2].mean(), scores[2], scores[3], head, scores.mean()]
    np.testing.assert_allclose(component_importance(found), expected, rtol=1e-12)
    alone = layer_importance([5.0, 1.0, 3.0, 2.0], None)
    found_alone = component_importance(found, use_activations=False)
    np.testing.assert_allclose(found_alone[1:3], alone[2:], rtol=1e-12)


def test_lengthscales_at_the_steps() -> None:
    # 21 layers: ranks 0.00, 0.05, ... 1.00, so every boundary of Eq. 14 is hit exactly.
    lengthscales = initial_lengthscales(np.linspace(1.0, 0.0, 21))
    assert [int((lengthscales == value).sum()) for value in (0.5, 1.0, 2.0, 5.0)] == [4, 5, 6, 6]


def test_the_parameter_branch_can_stand_alone() -> None:
    p = [1.0, 5.0, 2.0, 9.0]
    np.testing.assert_array_equal(layer_importance(p, None), smooth(rescale(p)))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(NotFiniteError):
        rescale([1.0, np.nan])
    with pytest.raises(WrongShapeError):
        layer_importance([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(WrongShapeError):
        rescale([[1.0], [2.0]])
    with pytest.raises(SettingError):
        layer_importance([1.0], [1.0], parameter_weight=1.5)
