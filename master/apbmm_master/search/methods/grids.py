"""The grid searches of the model-level merge methods (Experiment 2), one for each method.

A grid follows from the method's entry in `apbmm_common.merge_methods`. Its vectors hold the weight
(the paper's alpha, which stands outside Theta) and the parameters that the method has a grid of.
The worker carries out the merge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from typing import ClassVar

import numpy as np

from apbmm_common.merge_methods import MergeMethod
from apbmm_master.search.arrays import Array
from apbmm_master.search.methods.designs import FixedPoints
from apbmm_master.search.methods.problem import Problem
from apbmm_master.search.methods.sequences import spread_order


class Grid(FixedPoints):
    """A fixed grid, in an order that covers it evenly wherever the search stops.

    The weights are i / n for i = 1 .. n. Weight 0 is left out: it gives the base model with any
    method. A point that fails is not replaced. The seed has no effect.
    """

    merge_method: ClassVar[MergeMethod]

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        dimensions = 1 + len(self.merge_method.searched)
        super().__init__(problem.with_dimensions(dimensions), settings)

    def _points(self) -> Iterator[Array]:
        """All weights once, then again with other parameters each, until all are combined."""
        weights = self.merge_method.grid_weights
        combinations = list(product(*(p.grid for p in self.merge_method.searched)))
        for turn in range(len(combinations)):
            for place, index in enumerate(spread_order(weights)):
                parameters = combinations[(place + turn) % len(combinations)]
                yield np.array([(index + 1) / weights, *parameters])


@cache
def grid_of(merge_method: MergeMethod) -> type[Grid]:
    """The grid search of one merge method."""
    attributes = {
        "__doc__": f"{merge_method.name}: {merge_method.citation}.",
        "name": merge_method.search_name,
        "merge_method": merge_method,
    }
    return type(f"{merge_method.name}_grid", (Grid,), attributes)
