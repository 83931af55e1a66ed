"""The metrics against brute force, on coordinates from a grid so that ties are common."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apbmm_master.search.pareto import contributions, front, hypervolume, spacing

Array = npt.NDArray[np.float64]
GRID = 5


def point_sets(objectives: int, largest: int = 6) -> st.SearchStrategy[Array]:
    point = st.lists(st.integers(0, GRID), min_size=objectives, max_size=objectives)
    return st.lists(point, max_size=largest).map(
        lambda rows: np.array(rows, dtype=np.float64).reshape(-1, objectives)
    )


def dominates(a: Array, b: Array) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(
        x > y for x, y in zip(a, b, strict=True)
    )


def front_by_definition(points: Array) -> list[int]:
    return [
        i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)
    ]


def hypervolume_by_counting(points: Array, reference: int) -> float:
    """Unit cells of the integer grid whose upper corner some point reaches."""
    cells = itertools.product(range(reference, GRID), repeat=points.shape[1])
    return float(sum(any((p >= np.array(c) + 1).all() for p in points) for c in cells))


@settings(deadline=None)
@given(st.integers(1, 4).flatmap(point_sets))
def test_front_is_the_definition(points: Array) -> None:
    assert front(points).tolist() == front_by_definition(points)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4).flatmap(point_sets), st.integers(0, 2))
def test_hypervolume_is_the_volume_of_the_dominated_cells(points: Array, reference: int) -> None:
    corner = np.full(points.shape[1], float(reference))
    expected = hypervolume_by_counting(points, reference)
    assert hypervolume(points, corner) == pytest.approx(expected)


@settings(deadline=None)
@given(point_sets(3), point_sets(3))
def test_hypervolume_never_shrinks(points: Array, more: Array) -> None:
    corner = np.zeros(3)
    assert hypervolume(np.concatenate([points, more]), corner) >= hypervolume(points, corner)


@settings(deadline=None)
@given(point_sets(2, largest=8), st.integers(0, 99))
def test_metrics_ignore_order_and_dominated_points(points: Array, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(points)
    kept = points[front(points)]
    assert hypervolume(shuffled, [0.0, 0.0]) == pytest.approx(hypervolume(kept, [0.0, 0.0]))
    assert spacing(shuffled) == pytest.approx(spacing(kept))


@settings(deadline=None)
@given(point_sets(2, largest=8))
def test_spacing_is_its_formula(points: Array) -> None:
    reached = {tuple(points[i]) for i in front_by_definition(points)}
    kept = [np.array(point) for point in reached]
    if len(kept) <= 2:
        assert spacing(points) == 0.0
        return
    nearest = [
        min(float(np.abs(a - b).sum()) for j, b in enumerate(kept) if j != i)
        for i, a in enumerate(kept)
    ]
    mean = sum(nearest) / len(nearest)
    expected = (sum((d - mean) ** 2 for d in nearest) / (len(nearest) - 1)) ** 0.5
    assert spacing(points) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(point_sets(2), min_size=1, max_size=4))
def test_contributions_count_the_pooled_front(groups: list[Array]) -> None:
    pooled = np.concatenate(groups)
    expected = [
        sum(not any(dominates(other, point) for other in pooled) for point in group)
        for group in groups
    ]
    assert contributions(groups) == expected
