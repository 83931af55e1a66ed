"""AP-BMM (arXiv 2512.09972), complete, and its ablations (Table VI)."""

from __future__ import annotations

from typing import ClassVar

from apbmm_master.search.methods.base import SearchState
from apbmm_master.search.methods.bayesian import BayesianSearch
from apbmm_master.search.prior import initial_lengthscales
from apbmm_master.search.surrogate import Surrogate, fit


class ApBmm(BayesianSearch):
    """Asynchronous prior-guided Bayesian model merging (Algorithm 1).

    The layer importance sets the initial lengthscales of every fit (Eq. 14, 18), the acquisition
    knows the pending vectors (Eq. 24), and the pool is reranked (Eq. 31). Without importance the
    lengthscales start where GPyTorch starts them.
    """

    name: ClassVar[str] = "ap-bmm"
    uses_importance: ClassVar[bool] = True

    def _fit(self, state: SearchState) -> Surrogate:
        scores = self.problem.importance if self.uses_importance else None
        return fit(state.x, state.y, None if scores is None else initial_lengthscales(scores))


class ApBmmNoPrior(ApBmm):
    """AP-BMM without the prior: lengthscales start at GPyTorch's default."""

    name: ClassVar[str] = "ap-bmm-no-prior"
    uses_importance: ClassVar[bool] = False


class ApBmmNoPending(ApBmm):
    """AP-BMM that dispatches asynchronously but ignores what is in flight, in scoring and in
    reranking alike.
    """

    name: ClassVar[str] = "ap-bmm-no-pending"
    sees_pending: ClassVar[bool] = False


class ApBmmSynchronous(ApBmm):
    """AP-BMM without asynchrony and pending vectors: batches of one vector a worker."""

    name: ClassVar[str] = "ap-bmm-synchronous"
    synchronous: ClassVar[bool] = True
    sees_pending: ClassVar[bool] = False
