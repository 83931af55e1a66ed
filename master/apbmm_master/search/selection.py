"""One proposal: surrogate, acquisition and reranking joined, and what each of them said."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from apbmm_master.search.acquisition import pending_aware
from apbmm_master.search.arrays import Array, Indices
from apbmm_master.search.candidate_pool import MultiStart, optimise_pool
from apbmm_master.search.rerank import rerank
from apbmm_master.search.surrogate import Surrogate

MOST_WITH_SURPLUS = 4
"""Vectors of an ask up to which each adds to the surplus of the pool."""


@dataclass(frozen=True)
class SelectionSettings:
    """The paper's settings of one dispatch event (sections III-D and IV-C).

    `pool_factor` is kappa of Eq. 25; the two weights are lambda_gap and lambda_prox of Eq. 31.
    """

    samples: int = 128
    restarts: int = 10
    raw_samples: int = 512
    pool_factor: float = 3.0
    gap_weight: float = 0.25
    proximity_weight: float = 0.15

    def pool_for(self, count: int) -> int:
        """Candidates in the pool for `count` vectors (Eq. 25).

        The surplus stays that of the paper's four workers: an ask for many vectors is one of a
        large fleet, which waits for it, and every candidate costs as much as a chosen one.
        """
        surplus = (self.pool_factor - 1.0) * min(count, MOST_WITH_SURPLUS)
        return count + max(0, int(np.ceil(surplus)))

    def samples_for(self, objectives: int) -> int:
        """Monte-Carlo samples with `objectives`: halved for each one beyond three.

        Cells multiply with the objectives (a proposal at n = 20 took 2, 4 and 14 s for three, four
        and five with all samples), so something has to give.
        """
        return max(self.samples >> max(objectives - 3, 0), min(self.samples, 16))


@dataclass(frozen=True)
class SelectionReport:
    """What decided a proposal, for the journal: plain numbers, nothing that needs torch.

    `fit_status` has one entry an objective ("fitted", or "initial: REASON") and `lengthscales`
    one row; `acquisition` (M,) the log acquisition value of
    each pool candidate given the truly pending points; `scores` (chosen, M) the reranking's J at
    each choice; `chosen` the indices taken from the pool; the seconds are CPU time.
    """

    fit_status: tuple[str, ...]
    lengthscales: tuple[tuple[float, ...], ...]
    acquisition: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]
    chosen: tuple[int, ...]
    fit_seconds: float
    search_seconds: float


@dataclass(frozen=True)
class Selection:
    """The pool (M, D), which of it was `chosen`, in order, and the report."""

    pool: Array
    chosen: Indices
    report: SelectionReport

    @property
    def vectors(self) -> list[Array]:
        """The chosen vectors, best first."""
        return [self.pool[i] for i in self.chosen]


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
    """Choose `count` vectors given the fitted `surrogate` and what is pending.

    `observed` (n, m) are the completed objectives and `pending` (P, D) the vectors in flight. The
    pool has M candidates (Eq. 25; see `SelectionSettings.pool_for`), scored by Eq. 26 and reranked
    by Eq. 27-32.
    Repeatable: the result depends on the arguments alone, and torch's global generator is left as
    it was.
    """
    settings = settings or SelectionSettings()
    start = time.process_time()
    pool, score = _scored_pool(surrogate, pending, count, reference_point, seed, settings)
    reranking = rerank(
        pool,
        score,
        surrogate.mean(pool),
        observed,
        pending,
        count,
        gap_weight=settings.gap_weight,
        proximity_weight=settings.proximity_weight,
    )
    report = SelectionReport(
        fit_status=surrogate.status,
        lengthscales=tuple(tuple(row) for row in surrogate.lengthscales.tolist()),
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
