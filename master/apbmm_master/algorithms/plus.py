"""AP-BMM+: the paper's loop with a model and an initial design that serve 40 evaluations better.

What differs from `ap-bmm`, and of which kind each difference is:

- information: the two reference models, measured anyway, are observations of the surrogate (but
  not of the front): x = 0 is (0, 1) and x = 1 is (1, 0) by Eq. 2;
- information: noise that is told of an observation is part of the likelihood, on top of what the
  fit learns (see `objective.objective_variance` for what a run tells);
- information: half of the initial design lies on the diagonal x = (t, ..., t), between them;
- modelling: the kernel sees a merge's summaries besides its layers, and the layer importance
  enters as the weights of one of them, which the fit is free to ignore (see `summaries`);
- modelling: hyperparameters by MAP under dimension-scaled priors;
- choice: sequential greedy, without oversized pool and reranking.

Each can be switched off by a setting. `map_fit=False` with the paper's pool and reranking is
`ap-bmm` given the same information.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import ClassVar, cast

import numpy as np

from apbmm_master.algorithms.bayesian import BayesianSearch
from apbmm_master.algorithms.search import SearchState, unused
from apbmm_master.algorithms.sequences import scrambled_sobol
from apbmm_master.arrays import Array
from apbmm_master.hyperpriors import dimension_scaled
from apbmm_master.prior import initial_lengthscales
from apbmm_master.propose import ProposalSettings
from apbmm_master.summaries import MergeKernel, summaries
from apbmm_master.surrogate import Surrogate, fit


@dataclass(frozen=True)
class PlusSettings(ProposalSettings):
    """`references`: the reference models are observations (two objectives only, where Eq. 2
    says what they score); `diagonal`: half of the initial design on it; `map_fit`: MAP instead of
    the paper's fit, with `lengthscale_spread` the standard deviation of the prior on each log
    lengthscale; `summaries`: the kernel sees them, and `weighted` the importance among them.
    """

    raw_samples: int = 128
    pool_factor: float = 1.0
    gap_weight: float = 0.0
    proximity_weight: float = 0.0
    references: bool = True
    diagonal: bool = True
    map_fit: bool = True
    lengthscale_spread: float = 1.0
    summaries: bool = True
    weighted: bool = True


class ApBmmPlus(BayesianSearch):
    """Asynchronous, pending-aware, with references, diagonal design and summaries of merges."""

    name: ClassVar[str] = "ap-bmm-plus"
    settings_type: ClassVar[type[ProposalSettings]] = PlusSettings

    @property
    def _options(self) -> PlusSettings:
        return cast(PlusSettings, self.proposal_settings)

    def _fit(self, state: SearchState) -> Surrogate:
        options, size, scores = self._options, self.dimensions, self.problem.importance
        x, y, variance = state.x, state.y, state.variance
        if options.references and self.problem.objectives == 2:
            x = np.concatenate([x, np.zeros((1, size)), np.ones((1, size))])
            y = np.concatenate([y, [[0.0, 1.0], [1.0, 0.0]]])
            variance = np.concatenate([variance, np.zeros((2, 2))])
        if not options.map_fit:
            start = None if scores is None else initial_lengthscales(scores)
            return fit(x, y, start, variance=variance)
        scale = options.lengthscale_spread
        if not options.summaries:
            priors = dimension_scaled(size, scale=scale)
            return fit(x, y, hyperpriors=priors, variance=variance)
        weights = scores if options.weighted else None
        priors = dimension_scaled(size, summaries=summaries(weights), scale=scale)
        kernel = partial(MergeKernel, size, weights)
        return fit(x, y, hyperpriors=priors, kernel=kernel, variance=variance)

    def _design(self, state: SearchState, count: int) -> list[Array]:
        points = scrambled_sobol(self.dimensions, self.problem.seed)
        if self._options.diagonal:
            points = chain(self._diagonal(), points)
        return unused(points, state.known, count)

    def _diagonal(self) -> Iterator[Array]:
        size = self.problem.initial // 2
        for step in range(1, size + 1):
            yield np.full(self.dimensions, step / (size + 1))
