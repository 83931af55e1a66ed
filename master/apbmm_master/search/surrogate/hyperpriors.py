"""Hyperpriors for surrogates fitted by MAP instead of the paper's plain likelihood.

All are for targets of unit variance and inputs in [0, 1]^D.
"""

from __future__ import annotations

import math

import torch
from gpytorch.priors import GammaPrior, LogNormalPrior, Prior

from apbmm_master.search.arrays import Array
from apbmm_master.search.surrogate.gaussian_process import Hyperpriors

# BoTorch's defaults (Hvarfner et al., 2024): the median lengthscale grows with sqrt(D).
LENGTHSCALE_LOC, LENGTHSCALE_SCALE = math.sqrt(2.0), math.sqrt(3.0)
NOISE_LOC, NOISE_SCALE = -4.0, 1.0
# Global shrinkage of the SAAS prior (Eriksson and Jankowiak, 2021).
SAAS_SHRINKAGE = 0.1


def dimension_scaled(
    dimensions: int, summaries: int = 0, scale: float = LENGTHSCALE_SCALE
) -> Hyperpriors:
    """LogNormal lengthscale priors scaled with the dimension, and LogNormal(-4, 1) noise.

    `scale` is the standard deviation of each log lengthscale. The kernel may append `summaries`
    summary statistics to the `dimensions` weights (`merge_kernel`); their priors are scaled with
    their own number.
    """
    loc = torch.full((dimensions,), _median(dimensions), dtype=torch.float64)
    if summaries:
        further = torch.full((summaries,), _median(summaries), dtype=torch.float64)
        loc = torch.cat([loc, further])
    return Hyperpriors(
        lengthscale=LogNormalPrior(loc, torch.full_like(loc, scale)),
        outputscale=LogNormalPrior(_scalar(0.0), _scalar(1.0)),
        noise=LogNormalPrior(_scalar(NOISE_LOC), _scalar(NOISE_SCALE)),
    )


def _median(dimensions: int) -> float:
    """Log of the median lengthscale: it grows with sqrt(`dimensions`), as distances do."""
    return LENGTHSCALE_LOC + 0.5 * math.log(dimensions)


def sparse_axes(lengthscales: Array) -> Hyperpriors:
    """A SAAS prior on inverse squared lengthscales, for MAP.

    Half-Cauchy with scale 0.1 / l^2 for each of the given `lengthscales` l (D,). It presumes that
    all dimensions are irrelevant, and dimensions with a short lengthscale less so.
    """
    scale = SAAS_SHRINKAGE / torch.as_tensor(lengthscales).square()
    return Hyperpriors(
        lengthscale=InverseSquareHalfCauchy(scale),
        outputscale=GammaPrior(_scalar(2.0), _scalar(0.15)),
        noise=GammaPrior(_scalar(0.9), _scalar(10.0)),
    )


class InverseSquareHalfCauchy(Prior):  # type: ignore[misc]
    """Half-Cauchy density of 1 / l^2, up to a constant, as a prior on a lengthscale l.

    It is the density of 1 / l^2, as in SAAS, without the Jacobian of the change to l.
    """

    def __init__(self, scale: torch.Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.register_buffer("scale", scale)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Log density (..., D), up to a constant, at lengthscales `x` (..., D)."""
        return -torch.log1p((x.square() * self.scale).square().reciprocal())


def _scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)
