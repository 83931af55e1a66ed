"""Model-level grids (Experiment 2): one merge rule with one weight, and density, for all layers.

The vector of these methods says weight (the paper's alpha, outside Theta) and density; the merge
itself is the worker's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.methods.designs import FixedPoints
from apbmm_master.search.methods.problem import Problem
from apbmm_master.search.methods.sequences import spread_order

DENSITIES = (1.0, 0.7, 0.9, 0.8)


class Grid(FixedPoints):
    """A fixed grid, walked in an order that covers it evenly however early the search stops.

    Weights are i / n for i = 1 .. n: not 0, which is the base model whatever the rule. A point
    that fails is not replaced. The seed has no effect.
    """

    weights: ClassVar[int]
    densities: ClassVar[tuple[float, ...]]
    axes: ClassVar[tuple[str, ...]]

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        super().__init__(problem.with_dimensions(len(self.axes)), settings)

    def _points(self) -> Iterator[Array]:
        """All weights, then all again, each time with the next density; of them in turn."""
        for turn in range(max(len(self.densities), 1)):
            for place, index in enumerate(spread_order(self.weights)):
                weight = (index + 1) / self.weights
                if self.densities:
                    density = self.densities[(place + turn) % len(self.densities)]
                    yield np.array([weight, density])
                else:
                    yield np.array([weight])


class TaskArithmetic(Grid):
    """Task arithmetic (Ilharco et al., 2022): 80 weights."""

    name: ClassVar[str] = "ta"
    weights: ClassVar[int] = 80
    densities: ClassVar[tuple[float, ...]] = ()
    axes: ClassVar[tuple[str, ...]] = ("weight",)


class WeightAndDensity(Grid):
    """Densities 0.7, 0.8, 0.9 and 1.0, crossed with 20 weights."""

    weights: ClassVar[int] = 20
    densities: ClassVar[tuple[float, ...]] = DENSITIES
    axes: ClassVar[tuple[str, ...]] = ("weight", "density")


class Ties(WeightAndDensity):
    """TIES (Yadav et al., 2023)."""

    name: ClassVar[str] = "ties"


class Dare(WeightAndDensity):
    """DARE (Yu et al., 2024)."""

    name: ClassVar[str] = "dare"


class Breadcrumbs(WeightAndDensity):
    """Model Breadcrumbs (Davari and Belilovsky, 2024)."""

    name: ClassVar[str] = "breadcrumbs"


class Della(WeightAndDensity):
    """DELLA (Deep et al., 2024)."""

    name: ClassVar[str] = "della"
