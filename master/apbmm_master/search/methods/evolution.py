"""MOEA/D + CMA-ES: the evolutionary baseline of Table II, synchronous.

MOEA/D (Zhang and Li, 2007) turns the objectives into several subproblems, one for each weight
vector. Here a CMA-ES (Hansen, 2016) searches each of them. A search of 40 evaluations has to share
them: the strategies learn from all neighbours' results and not only from their own offspring, as in
the injection of neighbours' solutions by Zapotecas-Martinez et al. (GECCO 2015).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from apbmm_master.search.arrays import Array, Indices
from apbmm_master.search.methods.base import Search, SearchState
from apbmm_master.search.methods.deduplication import first_distinct
from apbmm_master.search.methods.problem import Problem
from apbmm_master.search.methods.sequences import scrambled_sobol
from apbmm_master.search.pareto import front

SUBPROBLEMS = 4
NEIGHBOURS = 4
OFFSPRING = 2
EARLIER = 4
"""Vectors of earlier batches that a strategy is told with each batch: the best for its weights."""
SIGMA = 0.175
SUM_WEIGHT = 0.05


class MoeadCmaes(Search):
    """MOEA/D whose subproblems are each searched by a CMA-ES.

    With two objectives there are four weight vectors, each a neighbour of every other; with more,
    the smallest simplex lattice of at least four, in which each vector has its four nearest as
    neighbours, itself included. A subproblem's loss is the augmented Tchebycheff distance of the
    normalised objectives. The subproblems take turns in a shuffled order, two offspring a turn, and
    as many turns make a batch as it takes to give each worker a vector.

    A batch is one generation of every strategy. The strategy is told the vectors of the batch that
    its neighbours bred, itself included, and the `EARLIER` best for its subproblem of all that were
    known before. So it has learnt from seven batches when the last of 8 + 32 evaluations is
    proposed with four workers. It starts at the best point of the initial design, with the step
    size 0.175 of the authors' code.

    The strategies are rebuilt from the completed evaluations at each proposal, because a method
    keeps nothing else between proposals.
    """

    name: ClassVar[str] = "moead-cmaes"
    synchronous: ClassVar[bool] = True

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        super().__init__(problem, settings)
        self._weights = simplex_lattice(problem.objectives, SUBPROBLEMS)
        apart = np.linalg.norm(self._weights[:, None] - self._weights[None], axis=-1)
        self._neighbours = np.argsort(apart, axis=1, kind="stable")[:, :NEIGHBOURS]
        self._turns = np.random.default_rng(problem.seed).permutation(len(self._weights))

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        first = state.index - state.designed
        parents = [self._parent(first + offset) for offset in range(count)]
        offspring: list[Array] = []
        for subproblem in dict.fromkeys(parents):
            strategy = self._strategy(subproblem, state)
            offspring += strategy.ask(parents.count(subproblem))
        vectors: list[Array] = []
        for vector in offspring:
            known = np.concatenate([state.known, self._rows(vectors)])
            inside = np.clip(vector, 0.0, 1.0)
            vectors += first_distinct(chain([inside], self._spare(state)), known, 1)
        return vectors

    def _parent(self, number: int) -> int:
        """The subproblem that breeds offspring `number`, counted from 0 after the design."""
        return int(self._turns[(number // OFFSPRING) % len(self._turns)])

    def _strategy(self, subproblem: int, state: SearchState) -> Any:
        """The CMA-ES of a subproblem, after all batches of which something completed."""
        losses = scalarised(normalised(state.y), self._weights[subproblem])
        losses = constrained(losses, state.margins)
        numbers = offspring_numbers(state)
        batches = np.where(numbers < 0, -1, numbers // self.problem.workers)
        by_neighbours = np.array(
            [n < 0 or self._parent(n) in self._neighbours[subproblem] for n in numbers]
        )
        designed = np.flatnonzero(batches < 0)
        start = state.x[designed[losses[designed].argmin()]]
        strategy = self._new_strategy(start, subproblem, state.index)
        for batch in range(int(batches.max()) + 1):
            bred = np.flatnonzero((batches == batch) & by_neighbours)
            earlier = np.flatnonzero((batches < batch) & by_neighbours)
            missing = strategy.popsize - len(bred)
            best = earlier[np.argsort(losses[earlier], kind="stable")[:missing]]
            rows = np.concatenate([bred, best])
            if len(bred) and len(rows) == strategy.popsize:
                strategy.ask()  # `tell` needs an open generation, and takes other vectors as well
                strategy.tell(list(state.x[rows]), losses[rows].tolist())
        return strategy

    def _new_strategy(self, start: Array, subproblem: int, index: int) -> Any:
        from cma import CMAEvolutionStrategy

        rng = np.random.default_rng([self.problem.seed, index, subproblem])
        options = {
            "popsize": self.problem.workers + EARLIER,
            "bounds": [0.0, 1.0],
            "seed": np.nan,  # a number would seed numpy's global generator
            "randn": lambda *shape: rng.standard_normal(shape),
            "verbose": -9,
        }
        return CMAEvolutionStrategy(start, SIGMA, options)

    def _spare(self, state: SearchState) -> Iterator[Array]:
        """Sobol points for offspring that repeat a known vector."""
        return scrambled_sobol(self.dimensions, self.problem.seed + state.index + 1)


def offspring_numbers(state: SearchState) -> Indices:
    """Of each completed vector (n,): which offspring it is, counted from 0 after the design.

    -1 for a vector of the design, and for one that was told without having been asked for.
    """
    # A search observes what it issued exactly as issued, however it was told.
    numbers = {x.tobytes(): number for number, x in enumerate(state.issued[state.designed :])}
    return np.array([numbers.get(x.tobytes(), -1) for x in state.x])


def normalised(y: Array) -> Array:
    """Objectives (n, m) scaled so that those on their front span [0, 1] in each objective."""
    best = y[front(y)]
    span = best.max(axis=0) - best.min(axis=0)
    return np.asarray((y - best.min(axis=0)) / np.where(span > 0.0, span, 1.0))


def scalarised(y: Array, weight: Array) -> Array:
    """Augmented Tchebycheff loss (n,) of maximised objectives (n, m), from their ideal point."""
    distance = y.max(axis=0) - y
    return np.asarray((weight * distance).max(axis=1) + SUM_WEIGHT * distance.sum(axis=1))


def constrained(losses: Array, margins: Array) -> Array:
    """Losses (n,) in which whatever breaks a constraint is worse than what breaks none.

    Of those that do, less is better: the sum of what is missing of the `margins` (n, c), each in
    standard deviations. Deb (2000).
    """
    scale = margins.std(axis=0)
    missing = (np.clip(-margins, 0.0, None) / np.where(scale > 0.0, scale, 1.0)).sum(axis=1)
    broken = (margins < 0.0).any(axis=1)
    return np.asarray(np.where(broken, losses.max() + missing, losses), dtype=np.float64)


def simplex_lattice(objectives: int, smallest: int) -> Array:
    """The coarsest Das-Dennis lattice of weight vectors (w, m) with at least `smallest`."""
    from pymoo.util.ref_dirs import get_reference_directions

    for partitions in range(1, smallest + 1):
        lattice = get_reference_directions("das-dennis", objectives, n_partitions=partitions)
        if len(lattice) >= smallest:
            break
    return np.asarray(lattice, dtype=np.float64)
