"""Search spaces smaller than the model: contiguous blocks of layers that share one weight.

Layer-wise search has D = L, one number a layer. Block-wise search has D < L: block d takes the
layers that lie in its share of the depth, so block sizes differ by one layer at most. D = L is
the same space with blocks of one layer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from apbmm_master.arrays import Array, Indices, as_vector
from apbmm_master.search_errors import SettingError


def blocks(layers: int, dimensions: int) -> Indices:
    """The block (0 .. dimensions - 1) of each layer: shape (layers,), non-decreasing.

    Raises SettingError unless 1 <= dimensions <= layers.
    """
    if not 1 <= dimensions <= layers:
        raise SettingError(f"{layers} layers cannot be cut into {dimensions} blocks")
    return np.arange(layers, dtype=np.intp) * dimensions // layers


def expand(x: npt.ArrayLike, layers: int) -> Array:
    """The layer weights (layers,) of a block-wise vector `x` (D,)."""
    vector = as_vector(x, "a decision vector")
    return vector[blocks(layers, len(vector))]


def pooled(scores: npt.ArrayLike, dimensions: int) -> Array:
    """Importance of each block (dimensions,): the mean of its layers' scores (L,)."""
    array = as_vector(scores, "importance")
    owner = blocks(len(array), dimensions)
    total = np.bincount(owner, weights=array, minlength=dimensions)
    return np.asarray(total / np.bincount(owner, minlength=dimensions), dtype=np.float64)
