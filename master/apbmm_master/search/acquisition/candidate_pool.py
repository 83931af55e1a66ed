"""The candidate pool (Eq. 25, 26): multi-start optimisation of the acquisition function."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from botorch.optim.batched_lbfgs_b import fmin_l_bfgs_b_batched
from botorch.optim.initializers import initialize_q_batch
from botorch.utils.sampling import draw_sobol_samples
from torch import Tensor

from apbmm_master.search.acquisition.log_nehvi import PendingAwareLogNEHVI
from apbmm_master.search.arrays import Array


@dataclass(frozen=True)
class MultiStart:
    """How the acquisition function is optimised.

    - `raw_samples` Sobol points are scored with `screening_samples` of the Monte-Carlo samples;
    - of these, `restarts` are chosen as starts, and climb for `coarse_iterations`;
    - the best `finalists` of them climb on to convergence (`tolerance`, at most `iterations`). By
      then most restarts have come close to the optimum that they will end in;
    - `later_restarts` suffice for the second and later candidates of a pool, which can start from
      the optima found before.
    """

    restarts: int = 10
    later_restarts: int = 3
    raw_samples: int = 512
    screening_samples: int = 32
    coarse_iterations: int = 12
    finalists: int = 3
    iterations: int = 100
    tolerance: float = 1e-6


def optimise_pool(
    acquisition: PendingAwareLogNEHVI, size: int, search: MultiStart, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The candidate pool C_t (size, D) and each candidate's own score (size,) (Eq. 25, 26).

    Candidates are chosen one after another by multi-start optimisation, each as if those before it
    were pending. The scores are of each candidate alone, given the really pending points only. The
    local optima found for one candidate are among the possible starts of the next. This uses
    torch's global generator: fork and seed it to make the result repeatable.
    """
    bounds = torch.zeros(2, acquisition.dimensions, dtype=torch.float64)
    bounds[1] = 1.0
    raw = draw_sobol_samples(bounds, n=search.raw_samples, q=1, seed=seed).squeeze(-2)
    conditioned = acquisition
    chosen: list[Tensor] = []
    for _ in range(size):
        if chosen:
            conditioned = conditioned.given(chosen[-1])
        restarts = min(search.later_restarts, search.restarts) if chosen else search.restarts
        best, optima = _maximise(conditioned, raw, restarts, search)
        chosen.append(best)
        raw = torch.cat([raw[: search.raw_samples], optima])
    pool = torch.cat(chosen)
    return pool, acquisition.score(pool)


def _maximise(
    acquisition: PendingAwareLogNEHVI, raw: Tensor, restarts: int, search: MultiStart
) -> tuple[Tensor, Tensor]:
    """The best vector (1, D) found from `raw` (r, D), and the ends (restarts, D) of all starts."""
    screened = acquisition.thinned(search.screening_samples).score(raw)
    starts, _ = initialize_q_batch(raw.unsqueeze(-2), screened, n=min(restarts, len(raw)))
    found, values = _climb(acquisition, starts, search.coarse_iterations, search.tolerance)
    order = np.argsort(-values, kind="stable")
    finalists = found[order[: search.finalists]]
    ends, end_values = _climb(acquisition, finalists, search.iterations, search.tolerance)
    best = ends[int(np.argmax(end_values))].reshape(1, -1)
    return best, torch.cat([ends, found[order[search.finalists :]]]).squeeze(-2)


def _climb(
    acquisition: PendingAwareLogNEHVI, starts: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Array]:
    """BoTorch's batched L-BFGS-B in the box from `starts` (r, 1, D): ends, and values (r,)."""
    shape = starts.shape

    def evaluate(x: Array, batch_indices: object) -> tuple[Array, Array]:  # noqa: ARG001
        points = torch.from_numpy(x).reshape(-1, *shape[1:]).requires_grad_()
        values = acquisition(points)
        (slope,) = torch.autograd.grad(values.sum(), points)
        return -values.detach().numpy(), -slope.reshape(len(x), -1).numpy()

    ends, values, _ = fmin_l_bfgs_b_batched(
        evaluate,
        starts.reshape(len(starts), -1).numpy(),
        bounds=[(0.0, 1.0)] * shape[-1],
        factr=None,
        ftol=tolerance,
        maxiter=iterations,
        pass_batch_indices=True,
    )
    return torch.from_numpy(ends).clamp(0.0, 1.0).reshape(shape), -values
