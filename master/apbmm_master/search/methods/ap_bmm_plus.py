"""AP-BMM+: the paper's loop with a model and an initial design that serve 40 evaluations better.

What differs from `ap-bmm`, and of which kind each difference is:

- information: the reference models, which every run measures, are observations of the surrogate.
  By Eq. 2, of two, x = 0 scores (0, 1) and x = 1 scores (1, 0). A fit leaves them out while the
  other observations contradict them (see `ends_are_plausible`);
- information: the known noise of an observation is part of the likelihood, in addition to the noise
  that the fit learns. A run tells what the outcomes of single answers show of it, or else what
  `reference_scaling.objective_variance` says;
- information: half of the initial design lies on the diagonal x = (t, ..., t) between the two, or
  on the edges between each two of more sources, with one weight for all layers;
- waiting: idle workers do not wait for the last points of the initial design. Once all of them
  are out, vectors are proposed as soon as a model can be fitted: at once with the references as
  observations, else after `FEWEST_RESULTS` results;
- modelling: the kernel also sees summary statistics of a merge (see `merge_kernel`). The layer
  importance enters here alone: it weights one of these statistics, and the fit is free to ignore
  that statistic. The lengthscales do not start from the importance, as those of `ap-bmm` do by
  Eq. 14: they start from GPyTorch's default;
- modelling: the hyperparameters are the MAP under dimension-scaled priors, not the maximum
  likelihood;
- modelling: two surrogates propose in turn. One is the paper's, with independent objectives. The
  other models their principal components (see `principal_components`), because the objectives of
  merges are opposite to one another. It predicts them better, but where it expects nothing it does
  not look, and a search by it alone may end too early (benchmarks/results/surrogates.md);
- choice: vectors are chosen one after another (sequential greedy), without an oversized pool and
  without reranking.

Each can be switched off by a setting. With `map_fit=False` the lengthscales start from the
importance (Eq. 14); with the paper's pool and reranking and `correlated=0` besides, the method is
`ap-bmm` given the same information.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations
from typing import ClassVar

import numpy as np

from apbmm_common.simplex import numbers_of, one_hot
from apbmm_master.search.acquisition.selection import SelectionSettings
from apbmm_master.search.arrays import Array, as_matrix
from apbmm_master.search.errors import SearchError, SettingError
from apbmm_master.search.methods.base import SearchState
from apbmm_master.search.methods.bayesian import BayesianSearch
from apbmm_master.search.methods.deduplication import first_distinct
from apbmm_master.search.methods.problem import Problem
from apbmm_master.search.methods.sequences import scrambled_sobol
from apbmm_master.search.prior import initial_lengthscales
from apbmm_master.search.surrogate.gaussian_process import Surrogate, fit
from apbmm_master.search.surrogate.hyperpriors import dimension_scaled
from apbmm_master.search.surrogate.merge_kernel import MergeKernel, summary_count

FEWEST_RESULTS = 2
"""Targets are standardised, which takes two of them to say anything."""
SMALLEST_BAYES_FACTOR = 1e-4
"""On the benchmark's landscapes true ends had factors above 1e-3, exchanged ones below 1e-20."""


@dataclass(frozen=True)
class ApBmmPlusSettings(SelectionSettings):
    """The settings of `ap-bmm-plus`.

    - `references`: the reference models are observations;
    - `ends` (S, m + c): what the S sources score, and their margins of c constraints, the one at
      x = 0 first, then the others in the order of their weights. The default is what Eq. 2 says of
      the paper's two sources and objectives. It is not used with other numbers of them;
    - `ends_noise` (S, m + c): the known noise of `ends`, in squared units; none by default;
    - `diagonal`: half of the initial design lies on the edges between sources;
    - `map_fit`: MAP instead of the paper's maximum likelihood;
    - `lengthscale_spread`: standard deviation of the MAP's prior on each log lengthscale;
    - `summaries`: the kernel sees summary statistics of a merge;
    - `weighted`: one of these statistics is the mean weighted by the importance;
    - `correlated`: the share of the proposals, from 0 to 1, that is chosen by a surrogate of the
      objectives' principal components; with the default these are every second one. What is
      reported of a model, and what is expected of merges that have paused, is of the other one;
    - `outcomes`: a run tells what outcomes show of the noise. Without it the noise that a run tells
      is that of independent questions.
    """

    raw_samples: int = 128
    pool_factor: float = 1.0
    gap_weight: float = 0.0
    proximity_weight: float = 0.0
    references: bool = True
    ends: tuple[tuple[float, ...], ...] = ((0.0, 1.0), (1.0, 0.0))
    ends_noise: tuple[tuple[float, ...], ...] = ()
    diagonal: bool = True
    map_fit: bool = True
    lengthscale_spread: float = 1.0
    summaries: bool = True
    weighted: bool = True
    correlated: float = 0.5
    outcomes: bool = True


class ApBmmPlus(BayesianSearch):
    """Asynchronous, pending-aware, with references, diagonal design and summaries of merges."""

    name: ClassVar[str] = "ap-bmm-plus"
    settings_type: ClassVar[type[SelectionSettings]] = ApBmmPlusSettings
    uses_importance: ClassVar[bool] = True
    uses_references: ClassVar[bool] = True
    takes_estimates: ClassVar[bool] = True

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        super().__init__(problem, settings)
        sources = problem.sources
        try:
            self._ends = as_matrix(self.settings.ends, "ends")
            self._ends_noise = as_matrix(self.settings.ends_noise or 0.0 * self._ends, "ends_noise")
        except SearchError as error:
            raise SettingError(
                f"ap-bmm-plus: ends must be {sources} rows of numbers: {error}"
            ) from error
        if "ends" in settings and len(self._ends) != sources:
            raise SettingError(f"ap-bmm-plus: ends must be {sources} rows, not {len(self._ends)}")
        if self._ends_noise.shape != self._ends.shape or (self._ends_noise < 0.0).any():
            raise SettingError("ap-bmm-plus: ends_noise must be variances in the shape of ends")
        if self.settings.correlated > 1.0:
            raise SettingError("ap-bmm-plus: correlated is a share of the proposals, at most 1")

    @property
    def _has_ends(self) -> bool:
        """Whether the reference models are observations of this search."""
        shape = (self.problem.sources, self.problem.told)
        return bool(self.settings.references) and self._ends.shape == shape

    def _can_propose(self) -> bool:
        fittable = self._has_ends or len(self._x) >= FEWEST_RESULTS
        return fittable or super()._can_propose()

    def _chosen_by(self, state: SearchState, count: int) -> Surrogate:
        """See `BayesianSearch._chosen_by`: the two surrogates take turns."""
        share, turn = self.settings.correlated, state.index // count
        if math.floor((turn + 1) * share) == math.floor(turn * share):
            return super()._chosen_by(state, count)
        objectives = self.problem.objectives
        return self._kept(objectives, state, partial(self._fit, correlated=objectives))

    def _fit(self, state: SearchState, correlated: int = 0) -> Surrogate:
        data = (state.x, state.told, state.variance)
        if not self._has_ends:
            return self._fitted_to(*data, correlated)
        ends = self._ends
        corners = self._corners()
        if len(state.x):
            alone = self._fitted_to(*data, correlated)
            if not ends_are_plausible(alone, corners, ends):
                return alone
        more = (corners, ends, self._ends_noise)
        x, y, variance = (np.concatenate(pair) for pair in zip(data, more, strict=True))
        return self._fitted_to(x, y, variance, correlated)

    def _fitted_to(self, x: Array, y: Array, variance: Array, correlated: int) -> Surrogate:
        options = self.settings
        size = self.dimensions
        scores = self.problem.importance
        to_data = partial(fit, x, y, variance=variance, correlated=correlated)
        if not options.map_fit:
            return to_data(None if scores is None else initial_lengthscales(scores))
        scale = options.lengthscale_spread
        if not options.summaries:
            return to_data(hyperpriors=dimension_scaled(size, scale=scale))
        weights = scores if options.weighted else None
        numbers = self.problem.numbers if self.problem.simplex else 1
        priors = dimension_scaled(size, summaries=summary_count(weights, numbers), scale=scale)
        kernel = partial(MergeKernel, size, weights, numbers)
        return to_data(hyperpriors=priors, kernel=kernel)

    def _design(self, state: SearchState, count: int) -> list[Array]:
        points = scrambled_sobol(self.dimensions, self.problem.seed)
        if self.settings.diagonal:
            points = chain(self._edges(), points)
        return first_distinct(points, state.known, count)

    def _corners(self) -> Array:
        """The points (S, D) that are the sources, in the order of `ends`."""
        sources = self.problem.sources
        order = [sources - 1, *range(sources - 1)]
        return np.stack([self._everywhere(one_hot(source, sources)) for source in order])

    def _edges(self) -> Iterator[Array]:
        """Points between each two sources in turn, those of one edge evenly spaced.

        Neighbours in the order of the sources come first, so that few points reach every source.
        """
        sources = self.problem.sources
        edges = sorted(combinations(range(sources), 2), key=lambda edge: edge[1] - edge[0])
        size = self.problem.initial // 2
        for number in range(size):
            first, second = edges[number % len(edges)]
            points = len(range(number % len(edges), size, len(edges)))
            share = (number // len(edges) + 1) / (points + 1)
            row = [0.0] * sources
            row[first], row[second] = share, 1.0 - share
            yield self._everywhere(row)

    def _everywhere(self, row: Sequence[float]) -> Array:
        """The point (D,) with these weights of the sources in every layer."""
        numbers = numbers_of(row) if self.problem.simplex else tuple(row)
        return np.tile(numbers, self.dimensions // len(numbers))


def ends_are_plausible(model: Surrogate, corners: Array, ends: Array) -> bool:
    """Whether a model fitted without them can believe `ends` (S, m) at `corners` (S, D).

    The posterior density of the ends divided by their prior density is a Bayes factor: how much
    likelier the observations are with these ends than without. It must be at least
    `SMALLEST_BAYES_FACTOR` for each two of them; the bound is low because the ends follow from
    Eq. 2.
    """
    gained = model.log_density(corners, ends) - model.log_density(corners, ends, prior=True)
    return bool(gained.sum() >= math.log(SMALLEST_BAYES_FACTOR) * len(ends) / 2)
