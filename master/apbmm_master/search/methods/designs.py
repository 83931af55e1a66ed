"""Methods without a model: the Sobol sequence and the uniform interpolation line."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.methods.base import Search, SearchState
from apbmm_master.search.methods.deduplication import first_distinct
from apbmm_master.search.methods.sequences import scrambled_sobol, spread_order


class Sobol(Search):
    """The scrambled Sobol sequence from its first point: the initial design, continued.

    Asynchronous, and nothing ever waits: no point depends on a result.
    """

    name: ClassVar[str] = "sobol"

    def _design_is_complete(self) -> bool:
        return True

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        return first_distinct(
            scrambled_sobol(self.dimensions, self.problem.seed), state.known, count
        )


class FixedPoints(Search):
    """A method whose points are fixed: asynchronous, without initial design or use of results."""

    @property
    def exhausted(self) -> bool:
        """Whether the budget is spent, or no point is left to ask for and none outstanding."""
        if super().exhausted:
            return True
        return not (self._outstanding or first_distinct(self._points(), self._state([]).known, 1))

    def _design_is_complete(self) -> bool:
        return True

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        return first_distinct(self._points(), state.known, count)

    @abstractmethod
    def _points(self) -> Iterator[Array]:
        """All points (D,), in the order of asking."""


class Uniform(FixedPoints):
    """Uniform interpolation: x = (t, ..., t) at `budget` evenly spaced t inside (0, 1).

    Without the ends, which are the two reference models; in an order that covers the line evenly
    however early the search stops.
    """

    name: ClassVar[str] = "uniform"

    def _points(self) -> Iterator[Array]:
        size = self.problem.budget
        for index in spread_order(size):
            yield np.full(self.dimensions, (index + 1) / (size + 1))
