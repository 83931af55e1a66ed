"""AP-BMM (arXiv 2512.09972), complete, and its ablations (Table VI)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from apbmm_master.search.acquisition.selection import SelectionSettings
from apbmm_master.search.errors import SettingError
from apbmm_master.search.methods.base import SearchState
from apbmm_master.search.methods.bayesian import BayesianSearch
from apbmm_master.search.methods.problem import Problem
from apbmm_master.search.prior import LEAST_IMPORTANT, LENGTHSCALE_STEPS, initial_lengthscales
from apbmm_master.search.surrogate.gaussian_process import LENGTHSCALE_BOUNDS, Surrogate, fit


@dataclass(frozen=True)
class ApBmmSettings(SelectionSettings):
    """`lengthscale_bounds`: the smallest and the largest lengthscale that a fit may choose.

    The paper has no bounds; the default is too wide ever to matter. The authors' code has
    (0.005, 10).
    """

    lengthscale_bounds: tuple[float, ...] = LENGTHSCALE_BOUNDS


class ApBmm(BayesianSearch):
    """Asynchronous prior-guided Bayesian model merging (Algorithm 1).

    The layer importance sets the lengthscales from which every fit starts (Eq. 14, 18), the
    acquisition function takes the pending vectors into account (Eq. 24), and the candidate pool is
    reranked (Eq. 31). Without importance every fit starts from GPyTorch's default lengthscale.
    """

    name: ClassVar[str] = "ap-bmm"
    settings_type: ClassVar[type[SelectionSettings]] = ApBmmSettings
    uses_importance: ClassVar[bool] = True

    def __init__(self, problem: Problem, settings: Mapping[str, object]) -> None:
        super().__init__(problem, settings)
        self._bounds = _checked_bounds(self.name, self.settings.lengthscale_bounds)

    def _fit(self, state: SearchState) -> Surrogate:
        scores = self.problem.importance if self.uses_importance else None
        start = None if scores is None else initial_lengthscales(scores)
        noise = self._noise(state)
        return fit(state.x, state.told, start, variance=noise, lengthscale_bounds=self._bounds)


class ApBmmNoPrior(ApBmm):
    """AP-BMM without the prior: lengthscales start at GPyTorch's default."""

    name: ClassVar[str] = "ap-bmm-no-prior"
    uses_importance: ClassVar[bool] = False


class ApBmmNoPending(ApBmm):
    """AP-BMM that proposes asynchronously but ignores the pending vectors, in the acquisition
    function and in the reranking.
    """

    name: ClassVar[str] = "ap-bmm-no-pending"
    sees_pending: ClassVar[bool] = False


class ApBmmSynchronous(ApBmm):
    """AP-BMM in synchronous batches of one vector for each worker, without pending vectors."""

    name: ClassVar[str] = "ap-bmm-synchronous"
    synchronous: ClassVar[bool] = True
    sees_pending: ClassVar[bool] = False


def _checked_bounds(method: str, bounds: tuple[float, ...]) -> tuple[float, float]:
    """The two bounds. Raises SettingError unless every initial lengthscale is between them."""
    shortest = min(lengthscale for _, lengthscale in LENGTHSCALE_STEPS)
    if len(bounds) == 2 and 0.0 < bounds[0] < shortest and bounds[1] > LEAST_IMPORTANT:
        return bounds[0], bounds[1]
    raise SettingError(
        f"{method}: lengthscale_bounds is {list(bounds)}",
        f"it takes two numbers, the first above 0 and below {shortest}, the second above "
        f"{LEAST_IMPORTANT}: the initial lengthscales (Eq. 14) lie between them",
    )
