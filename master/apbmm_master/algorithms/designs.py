"""Methods without a model: the Sobol sequence and the uniform interpolation line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from apbmm_master.algorithms.problem import Problem, build_settings
from apbmm_master.algorithms.search import Search, SearchState, unused
from apbmm_master.algorithms.sequences import scrambled_sobol, spread_order
from apbmm_master.arrays import Array


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


class Uniform(Search):
    """Uniform interpolation: x = (t, ..., t) at `budget` evenly spaced t inside (0, 1).

    Without the ends, which are the two reference models. No initial design: every point is on
    the line, in an order that covers it evenly however early the search stops.
    """

    name: ClassVar[str] = "uniform"

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        super().__init__(problem, settings)
        build_settings(self.name, NoSettings, settings)

    @property
    def exhausted(self) -> bool:
        """Whether the budget is spent, or every point of the line is done or has failed."""
        tried = len(self._issued) >= self.problem.budget and not self._outstanding
        return super().exhausted or tried

    def _design_is_complete(self) -> bool:
        return True

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        return unused(self._line(), state.known, count)

    def _line(self) -> Iterator[Array]:
        size = self.problem.budget
        for index in spread_order(size):
            yield np.full(self.dimensions, (index + 1) / (size + 1))
