"""REHEARSAL: a real master with search methods that take their time and propose at random.

    python benchmarks/compressed_search.py RUN.toml ...      # as apbmm-master

Where evaluations are compressed in time, proposals must be as well. `compressed-asynchronous` and
`compressed-synchronous` wait as long as an ask of a real method takes, over the compression:
settings ``first`` and ``further``, in seconds, for the first vector of an ask and each other one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from apbmm_master.search import methods
from apbmm_master.search.arrays import Array
from apbmm_master.search.methods.base import Search, SearchState
from apbmm_master.search.methods.problem import Problem, build_settings


@dataclass(frozen=True)
class Waits:
    """Seconds of an ask."""

    first: float = 0.0
    further: float = 0.0


class Asynchronous(Search):
    """One vector at a time, without waiting for results."""

    name: ClassVar[str] = "compressed-asynchronous"

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        super().__init__(problem, settings)
        self._waits = build_settings(self.name, Waits, settings)

    def _design_is_complete(self) -> bool:
        return True

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        time.sleep(self._waits.first + self._waits.further * (count - 1))
        numbers = np.random.default_rng([self.problem.seed, state.key])
        return list(numbers.random((count, self.dimensions)))


class Synchronous(Asynchronous):
    """In batches of a vector for each worker."""

    name: ClassVar[str] = "compressed-synchronous"

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        super().__init__(problem, settings)
        self.batch = problem.workers


# Also run in the search's own process, which imports this file under another name.
_MODULE = "compressed_search"
sys.modules[f"{methods.__name__}.{_MODULE}"] = sys.modules[__name__]
methods._METHODS |= {
    method.name: (_MODULE, method.__name__) for method in (Asynchronous, Synchronous)
}

if __name__ == "__main__":
    from apbmm_master.cli import main

    main()
