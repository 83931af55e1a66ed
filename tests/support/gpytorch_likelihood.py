"""The surrogate's own likelihood beside GPyTorch's, the reference for it."""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.mlls import ExactMarginalLogLikelihood

from apbmm_master.search.surrogate.gaussian_process import log_likelihood

PARAMETERS = 3
"""Tensors that are fitted: lengthscales, outputscales and noises of all objectives."""


def assert_as_gpytorch(model: Any, *, value: float, gradient: float) -> None:
    """Likelihood and gradient of a model in training, within these relative errors."""
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
    theirs = likelihood(model(*model.train_inputs), model.train_targets)
    ours = log_likelihood(model)
    torch.testing.assert_close(ours, theirs, rtol=value, atol=1e-12)
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(theirs.sum(), parameters)
    got = torch.autograd.grad(ours.sum(), parameters)
    assert len(got) == PARAMETERS
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=gradient, atol=1e-10)
