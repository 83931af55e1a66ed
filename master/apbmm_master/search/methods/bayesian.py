"""What the Bayesian methods share: fit a surrogate, select vectors, avoid known vectors.

The methods differ in the model, in whether they take the pending vectors into account, and in their
settings.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from apbmm_master.search.acquisition.selection import Selection, SelectionSettings, select
from apbmm_master.search.arrays import Array, Indices, as_matrix
from apbmm_master.search.methods.base import Search, SearchState
from apbmm_master.search.methods.deduplication import first_distinct
from apbmm_master.search.methods.problem import Problem
from apbmm_master.search.methods.sequences import scrambled_sobol, torch_defaults
from apbmm_master.search.surrogate.gaussian_process import Surrogate


class BayesianSearch(Search):
    """Fits a surrogate to the completed evaluations and selects vectors with it.

    Every fit starts anew, and the random numbers of a proposal follow from its index, so that
    nothing is carried from one proposal to the next. Vectors that failed for good stay pending to
    the acquisition function: it then expects no further improvement near them.

    `sees_pending`: acquisition and reranking take the pending vectors into account.
    """

    settings_type: ClassVar[type[SelectionSettings]] = SelectionSettings
    sees_pending: ClassVar[bool] = True

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        super().__init__(problem, settings)
        self._fitted: dict[int, tuple[int, Surrogate]] = {}

    @property
    def uses_outcomes(self) -> bool:
        """See `Search.uses_outcomes`."""
        return bool(self.settings.outcomes)

    @abstractmethod
    def _fit(self, state: SearchState) -> Surrogate:
        """The model of the completed evaluations of `state`, at least one."""

    def _noise(self, state: SearchState) -> Array | None:
        """The known noise that the likelihood of a method of the papers has; None by default."""
        return state.variance if self.settings.outcomes else None

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        with one_thread():
            selection = select(
                self._chosen_by(state, count),
                state.y[state.feasible],
                self._avoid(state),
                count,
                reference_point=self.problem.reference_point,
                seed=proposal_seed(self.problem.seed, state.index),
                settings=self.settings,
            )
        self.last_selection = selection.report
        return self._separated([selection.pool[i] for i in _preference(selection)], state, count)

    def surrogate(self) -> Surrogate | None:
        """The model of all that was told so far; None while that is too little to propose with."""
        if not self._can_propose():
            return None
        with one_thread(), torch_defaults():
            return self._surrogate(self._state(self._in_flight(())))

    def predicted(self, x: npt.ArrayLike) -> tuple[Array, Array] | None:
        """See `Search.predicted`."""
        points = as_matrix(x, "x", self.dimensions)
        surrogate = self.surrogate()
        with one_thread():
            return None if surrogate is None else surrogate.predicted(points)

    def _surrogate(self, state: SearchState) -> Surrogate:
        """The model of all observations, fitted again when one was added or changed."""
        return self._kept(0, state, self._fit)

    def _kept(
        self, which: int, state: SearchState, fit: Callable[[SearchState], Surrogate]
    ) -> Surrogate:
        """One of the models of a method, `fit` again when an observation was added or changed.

        `which` tells a method's models apart.
        """
        revision, fitted = self._fitted.get(which, (None, None))
        if fitted is None or revision != state.revision:
            fitted = fit(state)
            self._fitted[which] = (state.revision, fitted)
        return fitted

    def _chosen_by(self, state: SearchState, count: int) -> Surrogate:  # noqa: ARG002
        """The model that a proposal of `count` vectors is chosen by."""
        return self._surrogate(state)

    def _avoid(self, state: SearchState) -> Array:
        """The vectors (a, D) that acquisition and reranking treat as pending."""
        if not self.sees_pending:
            return state.rejected
        return np.concatenate([state.pending, state.rejected])

    def _separated(self, preferred: Sequence[Array], state: SearchState, count: int) -> list[Array]:
        """The first `count` of `preferred` that repeat no known vector, then Sobol points."""
        vectors = first_distinct(preferred, state.known, count)
        if len(vectors) < count:
            known = np.concatenate([state.known, self._rows(vectors)])
            spare = scrambled_sobol(self.dimensions, proposal_seed(self.problem.seed, state.index))
            vectors += first_distinct(spare, known, count - len(vectors))
        return vectors


def _preference(selection: Selection) -> Indices:
    """Pool indices: those chosen, in order, then the rest by acquisition value."""
    rest = np.argsort(-np.array(selection.report.acquisition), kind="stable")
    others = rest[~np.isin(rest, selection.chosen)]
    return np.concatenate([selection.chosen, others])


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch in one thread: with these small matrices more threads take several times longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def proposal_seed(seed: int, index: int) -> int:
    """A 31-bit seed from the search's seed and the index of a proposal."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] >> 1)
