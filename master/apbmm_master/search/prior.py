"""The discrepancy prior: from two layer-wise differences to initial lengthscales (Eq. 6-14).

The differences themselves (Eq. 5, 7, 8) are measured by a worker. `L` is the number of layers.
All functions raise NotFiniteError or WrongShapeError for arrays that are not finite (L,).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from apbmm_master.search.arrays import Array, Indices, as_vector
from apbmm_master.search.errors import SettingError, WrongShapeError

# Normal consistency of the median absolute deviation; the authors' code has it, the paper not.
MAD_SCALE = 1.4826

# Eq. 14: (largest scaled rank, initial lengthscale); ranks beyond the last get LEAST_IMPORTANT.
LENGTHSCALE_STEPS = ((0.15, 0.5), (0.40, 1.0), (0.70, 2.0))
LEAST_IMPORTANT = 5.0


def rescale(values: npt.ArrayLike, layers: npt.ArrayLike | None = None) -> Array:
    """The robust rescaling N of Eq. 6 and 9: (n,) to (0, 1).

    sigmoid((v - median) / (1.4826 MAD)); 0.5 everywhere when the MAD is 0. Median and MAD are those
    of `layers` (L,), or of the values themselves.
    """
    array = as_vector(values, "discrepancy")
    if not len(array):
        return array
    spread = array if layers is None else as_vector(layers, "discrepancy")
    middle = np.median(spread)
    centred = array - middle
    deviation = MAD_SCALE * float(np.median(np.abs(spread - middle)))
    if deviation == 0.0:
        return np.full_like(array, 0.5)
    # tanh form of the sigmoid: an outlier of any size neither overflows nor warns.
    with np.errstate(over="ignore"):
        return 0.5 * (1.0 + np.tanh(0.5 * (centred / deviation)))


def smooth(values: npt.ArrayLike) -> Array:
    """The smoothing S of Eq. 11: (0.25, 0.5, 0.25) over interior layers, both ends unchanged."""
    array = as_vector(values, "fused prior")
    smoothed = array.copy()
    if len(array) > 2:
        smoothed[1:-1] = 0.25 * array[:-2] + 0.5 * array[1:-1] + 0.25 * array[2:]
    return smoothed


def importance(
    parameter: npt.ArrayLike,
    activation: npt.ArrayLike | None,
    parameter_weight: float = 0.5,
) -> Array:
    """The fused importance s_l of Eq. 6-12, in [0, 1], from both discrepancies (L,).

    `parameter_weight` is k1, and k2 = 1 - k1. Without activations (None) the parameter branch
    stands alone, as in SIP-BMM. Raises SettingError for a weight outside [0, 1].
    """
    if not 0.0 <= parameter_weight <= 1.0:
        raise SettingError(f"parameter_weight is {parameter_weight}, outside [0, 1]")
    by_parameter = rescale(parameter)
    if activation is None:
        return smooth(by_parameter)
    by_activation = rescale(activation)
    if len(by_activation) != len(by_parameter):
        raise WrongShapeError(
            f"{len(by_parameter)} parameter discrepancies but {len(by_activation)} of activations"
        )
    return smooth(parameter_weight * by_parameter + (1.0 - parameter_weight) * by_activation)


def outside_importance(parameter: npt.ArrayLike, layers: npt.ArrayLike) -> Array:
    """Importance (k,) of groups of tensors outside the layers, in [0, 1].

    From their parameter discrepancies (k,), rescaled as those of the layers (L,) are (Eq. 6), whose
    scores stay what they are. The parameter branch stands alone, as in SIP-BMM, because activations
    are those of layers; and nothing is smoothed, because groups have no neighbours.
    """
    return rescale(parameter, layers)


def pooled(scores: npt.ArrayLike, owners: Sequence[int]) -> Array:
    """Importance of each component of a vector (D,): the mean of its layers' scores (L,).

    `owners` names the component of each layer, 0 .. D - 1, as `space.Space` does.
    """
    array = as_vector(scores, "importance", len(owners))
    total = np.bincount(owners, weights=array)
    return np.asarray(total / np.bincount(owners), dtype=np.float64)


def descending_rank(scores: npt.ArrayLike) -> Indices:
    """Rank of each layer's score (L,), 0 the largest; ties go to the lower layer index."""
    array = as_vector(scores, "importance")
    order = np.argsort(-array, kind="stable")
    ranks = np.empty(len(array), dtype=np.intp)
    ranks[order] = np.arange(len(array))
    return ranks


def initial_lengthscales(scores: npt.ArrayLike) -> Array:
    """Eq. 13 and 14: the initial ARD lengthscale (L,) that each layer's rank gives it."""
    ranks = descending_rank(scores)
    scaled = ranks / max(len(ranks) - 1, 1)
    lengthscales = np.full(len(ranks), LEAST_IMPORTANT)
    for largest, lengthscale in reversed(LENGTHSCALE_STEPS):
        lengthscales[scaled <= largest] = lengthscale
    return lengthscales
