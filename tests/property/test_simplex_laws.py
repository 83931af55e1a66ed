"""Laws of stick-breaking: numbers of a box stand for the points of a simplex, and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apbmm_common.simplex import numbers_of, one_hot, row_of

UNIT = st.floats(0.0, 1.0)
NUMBERS = st.lists(UNIT, min_size=1, max_size=7)


@given(NUMBERS)
def test_every_point_of_the_box_is_one_of_the_simplex(numbers: list[float]) -> None:
    row = row_of(numbers)
    assert len(row) == len(numbers) + 1
    assert all(0.0 <= weight <= 1.0 for weight in row)
    assert math.fsum(row) == pytest.approx(1.0, abs=1e-12)


@given(st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=8))
def test_every_point_of_the_simplex_has_numbers(parts: list[float]) -> None:
    row = [part / math.fsum(parts) for part in parts]
    numbers = numbers_of(row)
    assert all(0.0 <= number <= 1.0 for number in numbers)
    assert row_of(numbers) == pytest.approx(row, abs=1e-9)


@given(st.integers(2, 8), st.data())
def test_corners_are_exactly_one_source(sources: int, data: st.DataObject) -> None:
    source = data.draw(st.integers(0, sources - 1))
    numbers = numbers_of(one_hot(source, sources))
    assert set(numbers) <= {0.0, 1.0}
    assert row_of(numbers) == one_hot(source, sources)
    assert (source == sources - 1) == (not any(numbers)), "the anchor is x = 0"


@given(UNIT)
def test_of_two_sources_the_first_gets_the_number_itself(number: float) -> None:
    assert row_of([number]) == (number, 1.0 - number)
    assert numbers_of((number, 1.0 - number)) == pytest.approx((number,))


@given(NUMBERS, st.integers(0, 6), UNIT)
def test_what_a_source_gets_rises_with_its_number(
    numbers: list[float], place: int, other: float
) -> None:
    place %= len(numbers)
    low, high = list(numbers), list(numbers)
    low[place], high[place] = sorted((numbers[place], other))
    assert row_of(low)[place] <= row_of(high)[place]
