"""REHEARSAL: a real master with search methods that take their time and propose at random.

    python -m benchmarks.master.compressed_search RUN.toml ...      # as apbmm-master

Where evaluations are compressed in time, proposals must be as well. `compressed-asynchronous` and
`compressed-synchronous` wait as long as an ask of a real method takes, over the compression:
settings ``first`` and ``further``, in seconds, for the first vector of an ask and each other one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.methods import register
from apbmm_master.search.methods.base import Search, SearchState


@dataclass(frozen=True)
class Waits:
    """Seconds of an ask."""

    first: float = 0.0
    further: float = 0.0


@register
class Asynchronous(Search):
    """One vector at a time, without waiting for results."""

    name: ClassVar[str] = "compressed-asynchronous"
    settings_type: ClassVar[type[Waits]] = Waits
    has_design: ClassVar[bool] = False

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        time.sleep(self.settings.first + self.settings.further * (count - 1))
        numbers = np.random.default_rng([self.problem.seed, state.index])
        return list(numbers.random((count, self.dimensions)))


@register
class Synchronous(Asynchronous):
    """In batches of a vector for each worker."""

    name: ClassVar[str] = "compressed-synchronous"
    synchronous: ClassVar[bool] = True


# The search's own process imports this file, too, and so knows the two methods.
if __name__ == "__main__":
    from apbmm_master.cli import main

    main()
