"""Pareto fronts and the metrics the paper reports on them.

All objectives are maximised. Points are (n, m) arrays, one row an evaluation, one column an
objective; every function refuses NaN and infinity with NotFiniteError, what is no real number with
NotNumericError, and a wrong shape with WrongShapeError. The module imports NumPy alone, so that
showing the state of a run stays fast.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from apbmm_master.search.arrays import Array, Indices, as_matrix, as_vector
from apbmm_master.search.errors import WrongShapeError


def front(points: npt.ArrayLike) -> Indices:
    """Indices, ascending, of the points (n, m) that no other point dominates.

    A point dominates another when it is no worse in every objective and better in one, so equal
    points do not dominate one another and all stay. No points give no indices.
    """
    values = as_matrix(points, "points")
    if values.shape[1] == 2:
        return _front_2d(values)
    keep = [i for i in range(len(values)) if not _is_dominated(values[i], values)]
    return np.array(keep, dtype=np.intp)


def _front_2d(values: Array) -> Indices:
    """The same for two objectives, in a time that a sort takes."""
    if not len(values):
        return np.zeros(0, dtype=np.intp)
    order = np.lexsort((-values[:, 1], -values[:, 0]))
    first, second = values[order].T
    # Points with the same first objective follow one another, the best of them first.
    leaders = np.concatenate([[True], first[1:] != first[:-1]])
    group = np.cumsum(leaders) - 1
    best = second[leaders]
    better = np.concatenate([[-np.inf], np.maximum.accumulate(best)[:-1]])
    keep = (second == best[group]) & (second > better[group])
    return np.sort(order[keep]).astype(np.intp)


def _is_dominated(point: Array, values: Array) -> bool:
    no_worse = (values >= point).all(axis=1)
    return bool((no_worse & (values > point).any(axis=1)).any())


def hypervolume(points: npt.ArrayLike, reference_point: npt.ArrayLike) -> float:
    """Volume that `points` (n, m) dominate above `reference_point` (m,); exact.

    WrongShapeError where the two have no objective, or not as many. Points that do not exceed the
    reference point in every objective add nothing. Two objectives are swept here; more go to pymoo
    (imported only then), which computes them exactly too.
    """
    reference = as_vector(reference_point, "reference_point")
    if not len(reference):
        raise WrongShapeError("reference_point is empty: there are no objectives")
    values = as_matrix(points, "points", columns=len(reference))
    values = values[(values > reference).all(axis=1)]
    if not len(values):
        return 0.0
    if values.shape[1] == 1:
        return float(values.max() - reference[0])
    if values.shape[1] == 2:
        return _hypervolume_2d(values, reference)
    from pymoo.indicators.hv import HV

    return float(HV(ref_point=-reference)(-values))


def _hypervolume_2d(values: Array, reference: Array) -> float:
    """Sum of strips, swept from the best first objective to the worst; dominated ones are empty."""
    descending = values[np.argsort(-values[:, 0], kind="stable")]
    floors = np.concatenate([[reference[1]], np.maximum.accumulate(descending[:, 1])[:-1]])
    heights = np.clip(descending[:, 1] - floors, 0.0, None)
    return float(((descending[:, 0] - reference[0]) * heights).sum())


def spacing(points: npt.ArrayLike) -> float:
    """Schott's Spacing of the front of `points` (n, m); lower is more even.

    The standard deviation (ddof 1) of each front point's L1 distance to its nearest neighbour on
    the front; 0 when the front has two points or fewer. J. R. Schott, 1995. The front is a set of
    objective vectors: one that several evaluations reached is one point, which otherwise would be
    its own neighbour at distance 0 and make an even front look uneven.
    """
    values = as_matrix(points, "points")
    values = np.unique(values[front(values)], axis=0)
    if len(values) <= 2:
        return 0.0
    distances = np.abs(values[:, None, :] - values[None, :, :]).sum(axis=-1)
    np.fill_diagonal(distances, np.inf)
    return float(distances.min(axis=1).std(ddof=1))


def contributions(groups: Sequence[npt.ArrayLike]) -> list[int]:
    """How many points of each group (n_i, m) lie on the front of all groups pooled.

    The sum of the counts is the size of the pooled front. Groups may be empty; a point that two
    methods share counts for both.
    """
    values = [as_matrix(group, "points") for group in groups]
    objectives = sorted({group.shape[1] for group in values if group.shape[1]})
    if len(objectives) > 1:
        raise WrongShapeError(
            f"groups of {objectives[0]} and of {objectives[1]} objectives do not mix"
        )
    filled = [group for group in values if len(group)]
    if not filled:
        return [0] * len(values)
    pooled = np.concatenate(filled)
    owner = np.repeat(np.arange(len(values)), [len(group) for group in values])
    return [int(n) for n in np.bincount(owner[front(pooled)], minlength=len(values))]
