"""The metrics against the paper's Table III and against hand-made cases."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from apbmm_master.search.errors import NotFiniteError, NotNumericError, WrongShapeError
from apbmm_master.search.pareto import contributions, front, hypervolume, spacing
from paper_tables import AP_BMM, MOEAD, MOMM, REFERENCE_POINT, TA, TABLE_III


def test_hypervolume_of_the_papers_points() -> None:
    points = TABLE_III[:, :2]
    assert hypervolume(points[AP_BMM], REFERENCE_POINT) == pytest.approx(1.32867, abs=5e-6)
    assert hypervolume(points, REFERENCE_POINT) == pytest.approx(1.38709, abs=5e-6)


def test_the_papers_pooled_front_and_contributions() -> None:
    points = TABLE_III[:, :2]
    assert len(front(points)) == 12
    groups = [points[part] for part in (AP_BMM, MOMM, MOEAD, TA)]
    assert contributions([*groups, np.empty((0, 2))]) == [7, 3, 1, 1, 0]


def test_front_keeps_duplicates_and_drops_the_dominated() -> None:
    points = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.4], [0.0, 0.9]]
    np.testing.assert_array_equal(front(points), [0, 1, 2, 3])
    assert front(np.empty((0, 2))).tolist() == []


def test_hypervolume_ignores_points_at_or_below_the_reference() -> None:
    assert hypervolume([[1.0, 1.0]], [0.0, 0.0]) == 1.0
    assert hypervolume([[1.0, 1.0], [5.0, 0.0], [-1.0, 9.0]], [0.0, 0.0]) == 1.0
    assert hypervolume([[5.0, 0.0]], [0.0, 0.0]) == 0.0
    assert hypervolume([], [0.0, 0.0]) == 0.0
    assert hypervolume([[2.0], [3.0]], [1.0]) == 2.0
    assert hypervolume([[1.0, 2.0, 3.0], [2.0, 1.0, 1.0]], [0.0, 0.0, 0.0]) == pytest.approx(7.0)


def test_spacing_is_schotts() -> None:
    # Nearest L1 neighbours on the front: 2, 2, 4; the dominated point does not count.
    points = [[0.0, 4.0], [1.0, 3.0], [3.0, 1.0], [0.5, 0.5]]
    assert spacing(points) == pytest.approx(np.std([2.0, 2.0, 4.0], ddof=1))
    assert spacing([[0.0, 4.0], [1.0, 3.0]]) == 0.0
    assert spacing([]) == 0.0


def test_spacing_takes_a_point_reached_twice_for_one() -> None:
    even = [[0.0, 4.0], [1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]
    assert spacing(even) == 0.0
    assert spacing([*even, even[1]]) == 0.0
    assert spacing([[0.0, 4.0]] * 3) == 0.0


def test_points_that_are_no_numbers_are_refused() -> None:
    bad = [[0.0, np.nan], [1.0, 0.0]]
    with pytest.raises(NotFiniteError):
        front(bad)
    with pytest.raises(NotFiniteError):
        hypervolume(bad, [0.0, 0.0])
    with pytest.raises(NotFiniteError):
        hypervolume([[0.0, 1.0]], [0.0, np.nan])
    with pytest.raises(NotFiniteError):
        spacing(bad)
    with pytest.raises(NotFiniteError):
        contributions([bad])
    with pytest.raises(NotFiniteError):
        front([[0.0, np.inf]])


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(WrongShapeError):
        front([1.0, 2.0])
    with pytest.raises(WrongShapeError):
        hypervolume([[1.0, 2.0]], [0.0, 0.0, 0.0])
    with pytest.raises(WrongShapeError):
        contributions([[[1.0, 2.0]], [[1.0, 2.0, 3.0]]])
    with pytest.raises(WrongShapeError, match="2 and of 3 objectives"):
        contributions([[[1.0, 2.0]], np.empty((0, 3))])
    with pytest.raises(WrongShapeError, match="not an array"):
        front([[1.0, 2.0], [1.0]])
    for no_objectives in (front, spacing):
        with pytest.raises(WrongShapeError, match="rows without a number"):
            no_objectives([[]])
    with pytest.raises(WrongShapeError):
        hypervolume([[]], [])
    with pytest.raises(WrongShapeError):
        hypervolume([], [])


def test_what_is_no_real_number_is_refused() -> None:
    no_numbers: tuple[Any, ...] = ([["a", "b"]], [[1.0, 2.0j]], [[{}, None]])
    for wrong in no_numbers:
        with pytest.raises(NotNumericError):
            front(wrong)


def test_the_light_modules_import_neither_torch_nor_scipy() -> None:
    code = (
        "import sys, apbmm_master.search, apbmm_master.search.reference_scaling;"
        "import apbmm_master.serve, apbmm_master.optimiser.process;"
        "import apbmm_master.search.prior, apbmm_master.status.snapshot;"
        "apbmm_master.search.names();"
        "print([m for m in ('torch', 'botorch', 'scipy', 'pymoo') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
