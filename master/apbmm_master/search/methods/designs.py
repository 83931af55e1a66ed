"""Methods without a model: the Sobol sequence and the uniform interpolation line."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.methods.base import Search, SearchState
from apbmm_master.search.methods.distinct import unused
from apbmm_master.search.methods.problem import Problem, build_settings
from apbmm_master.search.methods.sequences import scrambled_sobol, spread_order


@dataclass(frozen=True)
class NoSettings:
    """A method without settings of its own."""


class Sobol(Search):
    """The scrambled Sobol sequence from its first point: the initial design, continued.

    Asynchronous, and nothing ever waits: no point depends on a result.
    """

    name: ClassVar[str] = "sobol"

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        super().__init__(problem, settings)
        build_settings(self.name, NoSettings, settings)

    def _design_is_complete(self) -> bool:
        return True

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        return unused(scrambled_sobol(self.dimensions, self.problem.seed), state.known, count)


class FixedPoints(Search):
    """A method whose points are fixed: asynchronous, without initial design or use of results."""

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        super().__init__(problem, settings)
        build_settings(self.name, NoSettings, settings)

    @property
    def exhausted(self) -> bool:
        """Whether the budget is spent, or no point is left to ask for and none outstanding."""
        if super().exhausted:
            return True
        return not (self._outstanding or unused(self._points(), self._state([]).known, 1))

    def _design_is_complete(self) -> bool:
        return True

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        return unused(self._points(), state.known, count)

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
