"""The Bayesian baselines of Table II, in synchronous batches of one vector for each worker."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from apbmm_master.search.acquisition.selection import SelectionSettings, select
from apbmm_master.search.arrays import Array
from apbmm_master.search.methods.base import SearchState
from apbmm_master.search.methods.bayesian import BayesianSearch, one_thread, proposal_seed
from apbmm_master.search.pareto import front
from apbmm_master.search.prior import initial_lengthscales
from apbmm_master.search.surrogate.gaussian_process import Surrogate, fit
from apbmm_master.search.surrogate.hyperpriors import dimension_scaled, sparse_axes


@dataclass(frozen=True)
class GreedySettings(SelectionSettings):
    """Sequential greedy choice: no oversized pool, no reranking.

    `stock_priors` gives the model BoTorch's hyperpriors (MAP) instead of the paper's plain
    likelihood.
    """

    pool_factor: float = 1.0
    gap_weight: float = 0.0
    proximity_weight: float = 0.0
    stock_priors: bool = False


class Qnehvi(BayesianSearch):
    """Synchronous batch qLogNEHVI, the batch chosen by sequential greedy optimisation.

    The model is that of AP-BMM without its prior, so that the two methods differ in the search
    alone; with `stock_priors` it has BoTorch's hyperpriors.
    """

    name: ClassVar[str] = "qnehvi"
    settings_type: ClassVar[type[SelectionSettings]] = GreedySettings
    synchronous: ClassVar[bool] = True

    def _fit(self, state: SearchState) -> Surrogate:
        priors = dimension_scaled(self.dimensions) if self.settings.stock_priors else None
        return fit(state.x, state.told, hyperpriors=priors, variance=self._noise(state))


class SipBmm(BayesianSearch):
    """SIP-BMM, reconstructed from its abstract and fragments of its text (arXiv v4).

    `importance` is from parameter differences alone. The prior on the inverse squared lengthscales
    is SAAS, wider where a layer is important, and the fit is by MAP; qLogNEHVI chooses the batches.
    The method's block partitioning is a search space with D < L: dimensions and importance are then
    those of the blocks.
    """

    name: ClassVar[str] = "sip-bmm"
    settings_type: ClassVar[type[SelectionSettings]] = GreedySettings
    synchronous: ClassVar[bool] = True
    uses_importance: ClassVar[bool] = True
    uses_activations: ClassVar[bool] = False

    def _fit(self, state: SearchState) -> Surrogate:
        scores = self.problem.importance
        start = np.ones(self.dimensions) if scores is None else initial_lengthscales(scores)
        return fit(state.x, state.told, start, sparse_axes(start), variance=self._noise(state))


class Momm(BayesianSearch):
    """MOMM (arXiv 2407.00487) as the AP-BMM authors compare with it.

    The candidates are a pool of three times the batch from qLogNEHVI, and as many from differential
    evolution of the completed vectors. Those with the largest predictive variance are the batch. In
    its reports `chosen` indexes the acquisition's pool followed by the evolved vectors.
    """

    name: ClassVar[str] = "momm"
    settings_type: ClassVar[type[SelectionSettings]] = GreedySettings
    synchronous: ClassVar[bool] = True
    pool_factor: ClassVar[int] = 3

    def _fit(self, state: SearchState) -> Surrogate:
        return fit(state.x, state.told, variance=self._noise(state))

    def _propose(self, state: SearchState, count: int) -> list[Array]:
        seed = proposal_seed(self.problem.seed, state.index)
        size = self.pool_factor * count
        with one_thread():
            surrogate = self._surrogate(state)
            selection = select(
                surrogate,
                state.y[state.feasible],
                self._avoid(state),
                size,
                reference_point=self.problem.reference_point,
                seed=seed,
                settings=self.settings,
            )
            evolved = differential_evolution(
                state.x, state.y, size, np.random.default_rng(seed), feasible=state.feasible
            )
            pool = np.concatenate([selection.pool, evolved])
            with torch.no_grad():
                model = surrogate.model
                variance = model.posterior(torch.as_tensor(pool)).variance
                scaled = variance / model.outcome_transform.stdvs.square()
        order = np.argsort(-scaled.sum(dim=-1).numpy(), kind="stable")
        self.last_selection = replace(selection.report, chosen=tuple(order[:count].tolist()))
        return self._separated([pool[i] for i in order], state, count)


def differential_evolution(
    x: Array,
    y: Array,
    count: int,
    rng: np.random.Generator,
    *,
    weight: float = 0.5,
    crossover: float = 0.9,
    feasible: npt.NDArray[np.bool_] | None = None,
) -> Array:
    """`count` trial vectors (count, D) by rand/1/bin, clipped to the box.

    `x` (n, D) and `y` (n, m) are the completed evaluations. The target of each trial is a random
    vector on the front of those that are `feasible` (n,), or of all where none is; its three
    parents are random distinct vectors of `x` (with repeats when there are fewer than three).
    """
    among = np.arange(len(y)) if feasible is None or not feasible.any() else feasible.nonzero()[0]
    best = among[front(y[among])]
    trials = np.empty((count, x.shape[1]))
    for row in range(count):
        target = x[rng.choice(best)]
        a, b, c = x[rng.choice(len(x), 3, replace=len(x) < 3)]
        mutant = np.clip(a + weight * (b - c), 0.0, 1.0)
        swap = np.asarray(rng.random(x.shape[1]) < crossover)
        swap[rng.integers(x.shape[1])] = True
        trials[row] = np.where(swap, mutant, target)
    return trials
