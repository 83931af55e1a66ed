"""Methods without a model: the scrambled Sobol sequence and uniform interpolation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from itertools import count, islice
from typing import ClassVar

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.methods.base import Search, SearchState
from apbmm_master.search.methods.deduplication import first_distinct
from apbmm_master.search.methods.sequences import scrambled_sobol, spread_order, van_der_corput


class Sobol(Search):
    """The scrambled Sobol sequence, from the first point of the other methods' initial design on.

    Asynchronous. It never waits, because no point depends on a result.
    """

    name: ClassVar[str] = "sobol"
    has_design: ClassVar[bool] = False
    takes_estimates: ClassVar[bool] = True

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        return first_distinct(
            scrambled_sobol(self.dimensions, self.problem.seed), state.known, count
        )


class FixedPoints(Search):
    """A method whose points are fixed from the start. Asynchronous, without an initial design."""

    has_design: ClassVar[bool] = False
    takes_estimates: ClassVar[bool] = True

    @property
    def exhausted(self) -> bool:
        """Whether the budget is spent, or every point has been asked for and come back."""
        if super().exhausted:
            return True
        return not (self._outstanding or first_distinct(self._points(), self._state([]).known, 1))

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        return first_distinct(self._points(), state.known, count)

    @abstractmethod
    def _points(self) -> Iterator[Array]:
        """All points (D,), in the order of asking."""


class Uniform(FixedPoints):
    """Uniform interpolation: x = (t, ..., t) at `budget` evenly spaced values of t in (0, 1).

    Without a budget the values are those of van der Corput's sequence: 1/2, 1/4, 3/4, 1/8, ...
    t = 0 and t = 1 are left out: they are the reference models, which are measured anyway. The
    order of the points covers the line evenly, wherever the search stops. Of more than two sources,
    all layers have the weights of one point, the next of a scrambled Sobol sequence.
    """

    name: ClassVar[str] = "uniform"

    def _points(self) -> Iterator[Array]:
        numbers = self.problem.numbers
        if numbers == 1 and self.problem.simplex:
            for t in self._weights():
                yield np.full(self.dimensions, t)
            return
        for point in islice(scrambled_sobol(numbers, self.problem.seed), self.problem.budget):
            yield np.tile(point, self.dimensions // numbers)

    def _weights(self) -> Iterator[float]:
        size = self.problem.budget
        if size is None:
            return (van_der_corput(number) for number in count(1))
        return ((index + 1) / (size + 1) for index in spread_order(size))
