"""MOEA/D + CMA-ES: the evolutionary baseline of Table II, synchronous."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from apbmm_master.search.arrays import Array, Indices
from apbmm_master.search.methods.base import Search, SearchState
from apbmm_master.search.methods.deduplication import first_distinct
from apbmm_master.search.methods.problem import Problem
from apbmm_master.search.methods.sequences import scrambled_sobol

SUBPROBLEMS = 16
NEIGHBOURS = 4
OFFSPRING = 2
EXCHANGED = 2
SIGMA = 0.175
SUM_WEIGHT = 0.05


class MoeadCmaes(Search):
    """MOEA/D (Zhang and Li, 2007) whose subproblems are each searched by a CMA-ES.

    Sixteen weight vectors (the smallest simplex lattice with as many for more than two
    objectives), Tchebycheff plus 0.05 x sum, four neighbours, initial step 0.175. Subproblems
    take turns in a shuffled order, two offspring each; a strategy learns from its two offspring
    and, as MOEA/D's exchange of solutions, from the two vectors that its neighbours or the
    initial design had bred best for it by then. The strategies are rebuilt from what has been
    completed at each proposal: nothing else is remembered.
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
        bred = _Bred(state, self._turns)
        slots = [state.index - state.designed + offset for offset in range(count)]
        offspring: list[Array] = []
        for subproblem in dict.fromkeys(bred.subproblem(slot) for slot in slots):
            size = sum(bred.subproblem(slot) == subproblem for slot in slots)
            offspring += self._breed(subproblem, size, bred, state)
        vectors: list[Array] = []
        for vector in offspring:
            known = np.concatenate([state.known, self._rows(vectors)])
            vectors += first_distinct([vector], known, 1) or first_distinct(
                self._spare(state), known, 1
            )
        return vectors

    def _breed(self, subproblem: int, size: int, bred: _Bred, state: SearchState) -> list[Array]:
        """`size` offspring of the subproblem's strategy, brought up to date first."""
        losses = scalarised(state.y, self._weights[subproblem])
        foreign = [
            row
            for row, slot in enumerate(bred.slot_of_row)
            if slot < 0 or bred.subproblem(slot) in self._neighbours[subproblem]
        ]
        strategy: Any = None
        for own, before in bred.generations(subproblem):
            exchanged = [
                row for row in foreign if bred.slot_of_row[row] < before and row not in own
            ]
            best = sorted(exchanged, key=lambda row: losses[row])[:EXCHANGED]
            if strategy is None:
                strategy = self._strategy(state.x[best[0]], subproblem, state.index)
            rows = own + best
            strategy.ask()  # opens a generation, which is then told other vectors than these
            strategy.tell([state.x[row] for row in rows], [float(losses[row]) for row in rows])
        if strategy is None:
            strategy = self._strategy(state.x[int(np.argmin(losses))], subproblem, state.index)
        return [np.clip(x, 0.0, 1.0) for x in strategy.ask(size)]

    def _strategy(self, start: Array, subproblem: int, key: int) -> Any:
        from cma import CMAEvolutionStrategy

        rng = np.random.default_rng([self.problem.seed, key, subproblem])
        options = {
            "popsize": OFFSPRING + EXCHANGED,
            "bounds": [0.0, 1.0],
            "seed": np.nan,  # a number would seed numpy's global generator
            "randn": lambda *shape: rng.standard_normal(shape),
            "verbose": -9,
        }
        return CMAEvolutionStrategy(start, SIGMA, options)

    def _spare(self, state: SearchState) -> Iterator[Array]:
        return scrambled_sobol(self.dimensions, self.problem.seed + state.index + 1)


class _Bred:
    """Which completed vector was bred for which subproblem, and when.

    Offspring are numbered in the order they were issued, from 0 after the initial design; each
    two successive numbers are one turn. A completed vector that was not bred has number -1, and
    so has an offspring that is told again.
    """

    def __init__(self, state: SearchState, turns: Indices) -> None:
        self.turns = turns
        # A search observes what it issued exactly as issued, however it was told.
        slots = {x.tobytes(): slot for slot, x in enumerate(state.issued[state.designed :])}
        self.slot_of_row = [slots.pop(x.tobytes(), -1) for x in state.x]

    def subproblem(self, slot: int) -> int:
        """The subproblem whose turn offspring number `slot` belongs to."""
        return int(self.turns[(slot // OFFSPRING) % len(self.turns)])

    def generations(self, subproblem: int) -> list[tuple[list[int], int]]:
        """The turns of a subproblem of which all offspring completed: their rows, first number."""
        turns: dict[int, list[int]] = {}
        for row, slot in enumerate(self.slot_of_row):
            if slot >= 0 and self.subproblem(slot) == subproblem:
                turns.setdefault(slot // OFFSPRING, []).append(row)
        whole = {turn: rows for turn, rows in turns.items() if len(rows) == OFFSPRING}
        return [(rows, turn * OFFSPRING) for turn, rows in sorted(whole.items())]


def scalarised(y: Array, weight: Array) -> Array:
    """Augmented Tchebycheff loss (n,) of maximised objectives (n, m), from their ideal point."""
    distance = y.max(axis=0) - y
    return np.asarray((weight * distance).max(axis=1) + SUM_WEIGHT * distance.sum(axis=1))


def simplex_lattice(objectives: int, smallest: int) -> Array:
    """The coarsest Das-Dennis lattice of weight vectors (w, m) with at least `smallest`."""
    from pymoo.util.ref_dirs import get_reference_directions

    for partitions in range(1, smallest + 1):
        lattice = get_reference_directions("das-dennis", objectives, n_partitions=partitions)
        if len(lattice) >= smallest:
            break
    return np.asarray(lattice, dtype=np.float64)
