"""The layer importance prior: from two layer-wise discrepancies to initial lengthscales (Eq. 6-14).

A worker measures the discrepancies themselves (Eq. 5, 7, 8). L is the number of layers. The
functions raise NotFiniteError or WrongShapeError for arrays that are not finite or not (L,).

Deviations from the paper, both for layers that are alike (as with LoRA adapters on some layers, or
frozen layers):

- Eq. 6 and 9 divide by the median absolute deviation (MAD). Where more than half of the layers have
  the same discrepancy it is 0, and the paper's rescaling is not defined. `rescale` then divides by
  the range instead, so that the other layers still stand out.
- Eq. 13 ranks the layers and does not say how ties are broken. Breaking them by the layer index
  would give the first of several equal layers shorter lengthscales. Here tied layers share the mean
  of their ranks, and so get the same lengthscale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apbmm_master.search.arrays import Array, as_vector
from apbmm_master.search.errors import SettingError, WrongShapeError

# Makes the MAD of a normal sample its standard deviation; in the authors' code, not in the paper.
MAD_SCALE = 1.4826

# Eq. 14: (largest scaled rank, initial lengthscale); ranks beyond the last get LEAST_IMPORTANT.
LENGTHSCALE_STEPS = ((0.15, 0.5), (0.40, 1.0), (0.70, 2.0))
LEAST_IMPORTANT = 5.0

# Scores that are equal to so many decimals are tied: the smoothing rounds equal scores differently.
TIE_DECIMALS = 12


def rescale(values: npt.ArrayLike, layers: npt.ArrayLike | None = None) -> Array:
    """The robust rescaling N of Eq. 6 and 9: (n,) to [0, 1].

    sigmoid((v - median) / (1.4826 MAD)). Where the MAD is 0 the divisor is the range (largest minus
    smallest value), and where that is 0 too every score is 0.5. Median, MAD and range are those of
    `layers` (L,), by default of the values themselves.
    """
    array = as_vector(values, "discrepancy")
    spread = array if layers is None else as_vector(layers, "discrepancy")
    if not len(array) or not len(spread):
        return np.full_like(array, 0.5)
    middle = np.median(spread)
    # An outlier of any size neither overflows nor warns; the tanh is another form of the sigmoid.
    with np.errstate(over="ignore"):
        deviation = MAD_SCALE * float(np.median(np.abs(spread - middle)))
        deviation = deviation or float(np.ptp(spread))
        if deviation == 0.0:
            return np.full_like(array, 0.5)
        return 0.5 * (1.0 + np.tanh(0.5 * ((array - middle) / deviation)))


def smooth(values: npt.ArrayLike) -> Array:
    """The smoothing S of Eq. 11: (0.25, 0.5, 0.25) over interior layers, both ends unchanged."""
    array = as_vector(values, "fused prior")
    smoothed = array.copy()
    if len(array) > 2:
        smoothed[1:-1] = 0.25 * array[:-2] + 0.5 * array[1:-1] + 0.25 * array[2:]
    return smoothed


def layer_importance(
    parameter: npt.ArrayLike,
    activation: npt.ArrayLike | None,
    parameter_weight: float = 0.5,
) -> Array:
    """The fused and smoothed importance s_l of Eq. 6-12, in [0, 1]; see `fused_discrepancy`."""
    return smooth(fused_discrepancy(parameter, activation, parameter_weight))


def fused_discrepancy(
    parameter: npt.ArrayLike,
    activation: npt.ArrayLike | None,
    parameter_weight: float = 0.5,
) -> Array:
    """The fused prior c_l of Eq. 6-10, in [0, 1], from both discrepancies (L,).

    `parameter_weight` is k1, and k2 = 1 - k1. Without activations (None) the parameter branch
    stands alone, as in SIP-BMM. Raises SettingError for a weight outside [0, 1].
    """
    if not 0.0 <= parameter_weight <= 1.0:
        raise SettingError(f"parameter_weight is {parameter_weight}, outside [0, 1]")
    by_parameter = rescale(parameter)
    if activation is None:
        return by_parameter
    by_activation = rescale(activation)
    if len(by_activation) != len(by_parameter):
        raise WrongShapeError(
            f"{len(by_parameter)} parameter discrepancies but {len(by_activation)} of activations"
        )
    return parameter_weight * by_parameter + (1.0 - parameter_weight) * by_activation


@dataclass(frozen=True)
class Discrepancies:
    """What the importance of a run's components is computed from: plain numbers.

    `parameter` (Eq. 5) and `activation` (Eq. 8) have one number for each of the L layers, and
    where these have several `parts`, for each layer's first part, then for each layer's second
    part, and so on. `components` names the unit of each, of those that are searched, None for one
    that is not: `numbers` components of the vector weigh a unit. `outside` has the parameter
    discrepancy of each searched group of tensors outside the layers, None for a group that was not
    measured. `parameter_weight` is k1 of Eq. 10.
    """

    parameter: tuple[float, ...]
    activation: tuple[float, ...]
    components: tuple[int | None, ...]
    outside: tuple[float | None, ...] = ()
    parameter_weight: float = 0.5
    numbers: int = 1
    parts: int = 1


def component_importance(found: Discrepancies, *, use_activations: bool = True) -> Array:
    """Importance (D,) in [0, 1] of each component of a vector.

    The components of several layers get the mean of their scores s_l; all numbers of a unit or
    group have one importance. Layers that are not searched take no part: Eq. 6-12 are those of a
    model without them. Parts of layers are rescaled together, and smoothed each with its own
    neighbours. The components of the groups
    outside the layers follow. Such a group is scored by its parameter discrepancy, rescaled as
    those of the layers are (Eq. 6). Activations are those of layers, and groups have no neighbours
    to be smoothed with. A group that was not measured gets the mean of the layers' scores.
    """
    size = len(found.components)
    owners = [owner for owner in found.components if owner is not None]
    of_parts = np.array_split([owner is not None for owner in found.components], found.parts)
    cells = np.flatnonzero(np.concatenate(of_parts))
    parameter = as_vector(found.parameter, "discrepancy", size)[cells]
    activation = None
    if use_activations:
        activation = as_vector(found.activation, "discrepancy", size)[cells]
    fused = fused_discrepancy(parameter, activation, found.parameter_weight)
    ends = np.cumsum([part.sum() for part in of_parts])[:-1]
    scores = np.concatenate([smooth(part) for part in np.split(fused, ends)])
    mean = math.fsum(scores) / len(scores) if len(scores) else 0.5
    groups = [mean if g is None else rescale([g], parameter)[0] for g in found.outside]
    return np.repeat(np.concatenate([component_means(scores, owners), groups]), found.numbers)


def component_means(scores: npt.ArrayLike, owners: Sequence[int]) -> Array:
    """The mean score of each component (D,) over the layers (L,) that `owners` says it weighs."""
    array = as_vector(scores, "importance", len(owners))
    total = np.bincount(owners, weights=array)
    return np.asarray(total / np.bincount(owners), dtype=np.float64)


def descending_rank(scores: npt.ArrayLike) -> Array:
    """Rank of each score (L,), 0 for the largest; tied scores share the mean of their ranks."""
    array = as_vector(scores, "importance").round(TIE_DECIMALS)
    _, group, sizes = np.unique(-array, return_inverse=True, return_counts=True)
    before = np.cumsum(sizes) - sizes
    return np.asarray((before + 0.5 * (sizes - 1))[group], dtype=np.float64)


def initial_lengthscales(scores: npt.ArrayLike) -> Array:
    """Eq. 13 and 14: the initial ARD lengthscale (L,) that each layer's rank gives it."""
    ranks = descending_rank(scores)
    scaled = ranks / max(len(ranks) - 1, 1)
    lengthscales = np.full(len(ranks), LEAST_IMPORTANT)
    for largest, lengthscale in reversed(LENGTHSCALE_STEPS):
        lengthscales[scaled <= largest] = lengthscale
    return lengthscales
