"""One dispatch event (Algorithm 1): candidate pool, reranking, and the vectors to evaluate next."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from apbmm_master.search.acquisition.candidate_pool import MultiStart, optimise_pool
from apbmm_master.search.acquisition.log_nehvi import pending_aware
from apbmm_master.search.acquisition.rerank import rerank
from apbmm_master.search.arrays import Array, Indices
from apbmm_master.search.surrogate.gaussian_process import Surrogate

MOST_WITH_SURPLUS = 4
"""The surplus of the pool grows with the number of vectors asked for up to this number."""


@dataclass(frozen=True)
class SelectionSettings:
    """What every method with a surrogate can be set to: the paper's dispatch event, and its data.

    The settings of one dispatch event (sections III-D and IV-C):

    `samples` are the Monte-Carlo samples of the acquisition function; `restarts` and `raw_samples`
    are those of its optimisation (`MultiStart`). `pool_factor` is kappa of Eq. 25; the two weights
    are lambda_gap and lambda_prox of Eq. 31.

    `outcomes`: the surrogate takes the known noise of observations into account, and a run tells
    what the outcomes of single answers show of it (see `optimiser.outcome_book`). The paper's
    surrogate is told of no noise.
    """

    samples: int = 128
    restarts: int = 10
    raw_samples: int = 512
    pool_factor: float = 3.0
    gap_weight: float = 0.25
    proximity_weight: float = 0.15
    outcomes: bool = False

    def pool_for(self, count: int) -> int:
        """Candidates in the pool for `count` vectors (Eq. 25).

        The surplus stops growing at that of the paper's four workers. Many vectors are asked for by
        a large fleet, which waits for them, and a surplus candidate costs as much as a chosen one.
        """
        surplus = (self.pool_factor - 1.0) * min(count, MOST_WITH_SURPLUS)
        return count + max(0, int(np.ceil(surplus)))

    def samples_for(self, objectives: int) -> int:
        """Monte-Carlo samples with so many `objectives`: halved for each one beyond three.

        The number of cells grows fast with the objectives: with all samples a proposal after 20
        evaluations took 2, 4 and 14 s for three, four and five objectives.
        """
        return max(self.samples >> max(objectives - 3, 0), min(self.samples, 16))


@dataclass(frozen=True)
class SelectionReport:
    """What decided a selection, as plain numbers for the journal.

    - `fit_status`: "fitted" or "initial: REASON" for each objective, then for each constraint;
    - `lengthscales`: a row for each of these;
    - `correlated`: both are those of the objectives' principal components instead;
    - `acquisition` (M,): log acquisition value of each candidate given the pending points;
    - `scores` (chosen, M): J of Eq. 31 at each choice;
    - `chosen`: indices of the chosen candidates in the pool;
    - `fit_seconds`, `search_seconds`: CPU time of the fit, and of all else.
    """

    fit_status: tuple[str, ...]
    lengthscales: tuple[tuple[float, ...], ...]
    correlated: bool
    acquisition: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]
    chosen: tuple[int, ...]
    fit_seconds: float
    search_seconds: float


@dataclass(frozen=True)
class Selection:
    """The candidate pool (M, D), indices of the `chosen` candidates, best first, and a report."""

    pool: Array
    chosen: Indices
    report: SelectionReport


def select(
    surrogate: Surrogate,
    observed: Array,
    pending: Array,
    count: int,
    *,
    reference_point: Array,
    seed: int,
    settings: SelectionSettings | None = None,
) -> Selection:
    """Choose `count` vectors given the fitted `surrogate` and the pending vectors.

    `observed` (n, m) are the objectives of the completed evaluations that meet all constraints, and
    `pending` (P, D) the vectors in flight. What `surrogate` models beyond the m objectives are the
    margins of constraints. The pool has M candidates (Eq. 25; see `SelectionSettings.pool_for`),
    scored by Eq. 26 and reranked by Eq. 27-32. The result depends on the arguments alone, and
    torch's global generator stays as it was.
    """
    settings = settings or SelectionSettings()
    start = time.process_time()
    pool, score = _scored_pool(surrogate, pending, count, reference_point, seed, settings)
    reranking = rerank(
        pool,
        score,
        surrogate.mean(pool)[:, : len(reference_point)],
        observed,
        pending,
        count,
        gap_weight=settings.gap_weight,
        proximity_weight=settings.proximity_weight,
    )
    report = SelectionReport(
        fit_status=surrogate.status,
        lengthscales=tuple(tuple(row) for row in surrogate.lengthscales.tolist()),
        correlated=surrogate.correlated,
        acquisition=tuple(score.tolist()),
        scores=tuple(tuple(row) for row in reranking.scores.tolist()),
        chosen=tuple(reranking.chosen.tolist()),
        fit_seconds=surrogate.seconds,
        search_seconds=time.process_time() - start,
    )
    return Selection(pool, reranking.chosen, report)


def _scored_pool(
    surrogate: Surrogate,
    pending: Array,
    count: int,
    reference_point: Array,
    seed: int,
    settings: SelectionSettings,
) -> tuple[Array, Array]:
    """The pool C_t (M, D) and the score (M,) of each candidate alone."""
    size = settings.pool_for(count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        acquisition = pending_aware(
            surrogate.model,
            torch.as_tensor(reference_point),
            torch.as_tensor(pending),
            samples=settings.samples_for(len(reference_point)),
            pool=size,
            seed=seed,
        )
        pool, score = optimise_pool(
            acquisition,
            size,
            MultiStart(restarts=settings.restarts, raw_samples=settings.raw_samples),
            seed=seed,
        )
    return pool.numpy(), score.numpy()
