"""AP-BMM (arXiv 2512.09972): the paper's method, complete, and its ablations."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import torch

from apbmm_master.algorithms.problem import Problem, build_settings
from apbmm_master.algorithms.search import Search, SearchState, unused
from apbmm_master.algorithms.sequences import scrambled_sobol
from apbmm_master.arrays import Array, Indices
from apbmm_master.prior import initial_lengthscales
from apbmm_master.propose import Proposal, ProposalSettings, propose
from apbmm_master.surrogate import Surrogate, fit


class ApBmm(Search):
    """Asynchronous prior-guided Bayesian model merging (Algorithm 1).

    The layer importance sets the initial lengthscales of every fit (Eq. 14, 18), the acquisition
    knows the pending vectors (Eq. 24), and the pool is reranked (Eq. 31). Each fit starts anew
    from the prior and the acquisition from the proposal's key, so nothing is carried over.
    Vectors that failed are treated as pending: their outcome stays unknown, and the acquisition
    keeps away from what it already counts on.
    """

    name: ClassVar[str] = "ap-bmm"

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        super().__init__(problem, settings)
        self.proposal_settings = build_settings(self.name, ProposalSettings, settings)
        self._fitted: tuple[int, Surrogate] | None = None

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        with one_thread():
            start = time.process_time()
            surrogate = self._surrogate(state)
            proposal = propose(
                surrogate,
                state.y,
                self._avoid(state),
                count,
                reference_point=self.problem.reference_point,
                seed=proposal_seed(self.problem.seed, state.key),
                settings=self.proposal_settings,
                fit_seconds=time.process_time() - start,
            )
        self.last_proposal = proposal.report
        return self._separated(proposal, state, count)

    def _surrogate(self, state: SearchState) -> Surrogate:
        """The models fitted to the completed set; refitted only when there is news."""
        if self._fitted is None or self._fitted[0] != len(state.x):
            self._fitted = (len(state.x), self._fit(state))
        return self._fitted[1]

    def _fit(self, state: SearchState) -> Surrogate:
        scores = self.problem.importance
        return fit(state.x, state.y, None if scores is None else initial_lengthscales(scores))

    def _avoid(self, state: SearchState) -> Array:
        """What the acquisition and the reranking treat as pending."""
        return np.concatenate([state.pending, state.rejected])

    def _separated(self, proposal: Proposal, state: SearchState, count: int) -> list[Array]:
        """The chosen vectors; where one repeats a known vector, the next best that does not."""
        candidates = [proposal.pool[i] for i in _preference(proposal)]
        vectors = unused(candidates, state.known, count)
        if len(vectors) < count:
            known = np.concatenate([state.known, self._rows(vectors)])
            spare = scrambled_sobol(self.dimensions, proposal_seed(self.problem.seed, state.key))
            vectors += unused(spare, known, count - len(vectors))
        return vectors


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch in one thread: at these matrix sizes more cost several times the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _preference(proposal: Proposal) -> Indices:
    """Pool indices: those chosen, in order, then the rest by acquisition value."""
    rest = np.argsort(-np.array(proposal.report.acquisition), kind="stable")
    others = rest[~np.isin(rest, proposal.chosen)]
    return np.concatenate([proposal.chosen, others])


def proposal_seed(seed: int, key: int) -> int:
    """One 31-bit seed from a search's seed and the index of the proposal."""
    return int(np.random.SeedSequence([seed, key]).generate_state(1)[0] >> 1)
