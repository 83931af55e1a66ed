"""Random walk: each vector is a Gaussian step from one that is already measured.

This file is CONTRIBUTING's example of a search method. A method of the project is such a file in
``master/apbmm_master/search/methods/`` with an entry in that package's table; a method of another
project is registered with `apbmm_master.search.register`. Nothing else has to be changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.methods.base import Search, SearchState


@dataclass(frozen=True)
class RandomWalkSettings:
    """`step`: standard deviation of a step, in each component."""

    step: float = 0.1


class RandomWalk(Search):
    """A Gaussian step from a random completed vector."""

    name: ClassVar[str] = "random-walk"
    settings_type: ClassVar[type[RandomWalkSettings]] = RandomWalkSettings

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        rng = np.random.default_rng([self.problem.seed, state.index])
        starts = state.x[rng.integers(len(state.x), size=count)]
        return list(np.clip(rng.normal(starts, self.settings.step), 0.0, 1.0))
