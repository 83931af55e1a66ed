"""AP-BMM+: the paper's loop with a model and an initial design that serve 40 evaluations better.

What differs from `ap-bmm`, and of which kind each difference is:

- information: the two reference models, measured anyway, are observations of the surrogate (but
  not of the front): x = 0 is (0, 1) and x = 1 is (1, 0) by Eq. 2;
- information: half of the initial design lies on the diagonal x = (t, ..., t), between them;
- modelling: hyperparameters by MAP under dimension-scaled priors; the layer importance shifts the
  median lengthscale of each layer instead of only setting where the fit starts;
- modelling: an equal mixture with the same model without that shift, so that a misleading
  importance costs at most half of the attention;
- choice: sequential greedy, without oversized pool and reranking.

Each can be switched off by a setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from apbmm_master.surrogate import Surrogate, fit


@dataclass(frozen=True)
class PlusSettings(ProposalSettings):
    """`references`: the reference models are observations (two objectives only, where Eq. 2
    says what they score); `diagonal`: half of the initial design on it; `hedge`: mix with the
    model without the layer prior; `map_fit`: MAP instead of plain likelihood.
    """

    pool_factor: float = 1.0
    gap_weight: float = 0.0
    proximity_weight: float = 0.0
    references: bool = True
    diagonal: bool = True
    hedge: bool = True
    map_fit: bool = True


class ApBmmPlus(BayesianSearch):
    """Asynchronous, pending-aware, MAP, with references, diagonal design and hedged prior."""

    name: ClassVar[str] = "ap-bmm-plus"
    settings_type: ClassVar[type[ProposalSettings]] = PlusSettings

    @property
    def _options(self) -> PlusSettings:
        return cast(PlusSettings, self.proposal_settings)

    def _fit(self, x: Array, y: Array) -> Sequence[Surrogate]:
        if self._options.references and self.problem.objectives == 2:
            x = np.concatenate([x, np.zeros((1, x.shape[1])), np.ones((1, x.shape[1]))])
            y = np.concatenate([y, [[0.0, 1.0], [1.0, 0.0]]])
        scores = self.problem.importance
        start = None if scores is None else initial_lengthscales(scores)
        if not self._options.map_fit:
            return [fit(x, y, start)]
        plain = dimension_scaled(x.shape[1])
        if start is None:
            return [fit(x, y, hyperpriors=plain)]
        shift = np.log(start) - np.log(start).mean()
        shifted = fit(x, y, hyperpriors=dimension_scaled(x.shape[1], shift))
        return [shifted, fit(x, y, hyperpriors=plain)] if self._options.hedge else [shifted]

    def _design(self, state: SearchState, count: int) -> list[Array]:
        points = scrambled_sobol(self.dimensions, self.problem.seed)
        if self._options.diagonal:
            points = chain(self._diagonal(), points)
        return unused(points, state.known, count)

    def _diagonal(self) -> Iterator[Array]:
        size = self.problem.initial // 2
        for step in range(1, size + 1):
            yield np.full(self.dimensions, step / (size + 1))
