"""Contiguous blocks of layers."""

from __future__ import annotations

import numpy as np
import pytest

from apbmm_master.search_errors import SettingError
from apbmm_master.space import blocks, expand, pooled


@pytest.mark.parametrize(("layers", "dimensions"), [(36, 36), (36, 9), (36, 7), (8, 3), (5, 1)])
def test_blocks_are_contiguous_and_even(layers: int, dimensions: int) -> None:
    owner = blocks(layers, dimensions)
    sizes = np.bincount(owner, minlength=dimensions)
    assert (np.diff(owner) >= 0).all()
    assert len(sizes) == dimensions
    assert sizes.max() - sizes.min() <= 1


def test_expanding_repeats_each_weight_over_its_block() -> None:
    np.testing.assert_array_equal(expand([0.1, 0.9], 5), [0.1, 0.1, 0.1, 0.9, 0.9])
    np.testing.assert_array_equal(expand([0.1, 0.9, 0.5], 3), [0.1, 0.9, 0.5])


def test_importance_is_averaged_over_a_block() -> None:
    np.testing.assert_allclose(pooled([0.0, 0.5, 1.0, 0.2], 2), [0.25, 0.6])
    np.testing.assert_allclose(pooled([0.3, 0.7], 2), [0.3, 0.7])


def test_more_blocks_than_layers_are_refused() -> None:
    with pytest.raises(SettingError, match="4 layers cannot be cut into 5 blocks"):
        blocks(4, 5)
    with pytest.raises(SettingError):
        blocks(4, 0)
