"""The surrogate of Eq. 15-22: one exact Gaussian process per objective.

The models are one batched SingleTaskGP of BoTorch, which also computes the posterior, with a
kernel of GPyTorch. Only the evaluation of the likelihood that BoTorch optimises is written here,
because that is much faster: GPyTorch's kernel matrix, one Cholesky factorisation, and the
closed-form gradient of the log likelihood with respect to that matrix, instead of lazy tensors and
automatic differentiation through the factorisation. All numbers are float64.

Shapes: n observations in D dimensions, m objectives (two or more).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.transforms.outcome import Standardize
from botorch.optim.batched_lbfgs_b import fmin_l_bfgs_b_batched
from botorch.optim.closures.core import BatchedNDarrayOptimizationClosure
from botorch.optim.core import OptimizationResult, OptimizationStatus
from botorch.optim.utils import get_parameters_and_bounds
from botorch.optim.utils.numpy_utils import get_per_element_bounds
from botorch.utils.constraints import LogTransformedInterval
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.means import ZeroMean
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import Prior
from gpytorch.settings import min_fixed_noise
from linear_operator.utils.errors import NanError, NotPSDError

from apbmm_master.search.arrays import Array
from apbmm_master.search.surrogate.principal_components import PrincipalComponents

# Where lengthscales start without a layer prior: GPyTorch's own default, softplus(0).
DEFAULT_LENGTHSCALE = math.log(2.0)
# Wide enough not to bind on standardised targets, nor on components that vary a hundredth as much.
# They keep the factorisation well-posed.
LENGTHSCALE_BOUNDS = (1e-2, 1e3)
OUTPUTSCALE_BOUNDS = (1e-3, 1e3)
NOISE_BOUNDS = (1e-4, 2.0)
INITIAL_NOISE = 1e-2

# L-BFGS-B stops at this relative change of the likelihood; tighter moves no proposal.
RELATIVE_TOLERANCE = 1e-7
MAXIMUM_ITERATIONS = 200


KernelMaker = Callable[..., MaternKernel]


@dataclass(frozen=True)
class Hyperpriors:
    """Priors over the hyperparameters; None for no prior, as in the paper."""

    lengthscale: Prior | None = None
    outputscale: Prior | None = None
    noise: Prior | None = None


@dataclass(frozen=True)
class Surrogate:
    """A fitted model of all objectives.

    `status` has an entry for each objective: "fitted", or "initial: REASON" where the likelihood
    could not be optimised and the hyperparameters are the initial ones. `lengthscales` has a row
    for each objective, with as many entries as the kernel has lengthscales (D with the paper's
    kernel), and `initial_lengthscales` those that the fit began with. Where `correlated` is set,
    all of these are of the objectives' principal components instead. `seconds` is the CPU time of
    the fit.
    """

    model: SingleTaskGP
    status: tuple[str, ...]
    lengthscales: Array = field(repr=False)
    initial_lengthscales: Array = field(repr=False)
    correlated: bool = False
    seconds: float = 0.0

    @property
    def observed(self) -> Array:
        """The vectors (n, D) of the observations, in the order of `leave_one_out`."""
        return np.asarray(self.model.train_inputs[0][0].numpy(), dtype=np.float64)

    def mean(self, x: Array) -> Array:
        """Posterior mean (b, m), in the units of the observations, at `x` (b, D)."""
        with torch.no_grad():
            mean = self.model.posterior(torch.as_tensor(x)).mean
        return np.asarray(mean.numpy(), dtype=np.float64)

    def predicted(self, x: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation (b, m), without noise, as of `mean`."""
        with torch.no_grad():
            posterior = self.model.posterior(torch.as_tensor(x))
        return posterior.mean.numpy(), posterior.variance.sqrt().numpy()

    def leave_one_out(self) -> tuple[Array, Array]:
        """Mean and standard deviation (n, m) of each observation as the others predict it.

        The hyperparameters are those fitted to all observations, and the deviation includes the
        noise. In the units of the observations. Rasmussen and Williams (2006), Eq. 5.10 to 5.12.
        """
        (x,), targets = self.model.train_inputs, self.model.train_targets
        count, scaling = targets.shape[-1], self.model.outcome_transform
        with torch.no_grad():
            noise = self.model.likelihood.noise.unsqueeze(-1)
            covariance = self.model.covar_module.forward(x, x) + noise * torch.eye(count).to(x)
            inverse = torch.linalg.inv(covariance)
            precision = inverse.diagonal(dim1=-2, dim2=-1)
            mean = targets - (inverse @ targets.unsqueeze(-1)).squeeze(-1) / precision
            mean, variance = scaling.untransform(mean.mT, precision.reciprocal().mT)
        return mean.numpy(), variance.sqrt().numpy()

    def log_density(self, x: Array, y: Array, *, prior: bool = False) -> Array:
        """Log density (m,) of observing `y` (b, m) at `x` (b, D), jointly over the b rows.

        The density is that of the posterior, or with `prior` that of the prior process with the
        fitted hyperparameters. The noise is the learned noise. Units are those of the targets:
        standardised, and with `correlated` an entry is that of a principal component.
        """
        points, scaling = torch.as_tensor(x), self.model.outcome_transform
        with torch.no_grad():
            targets = scaling(torch.as_tensor(y))[0].mT
            if prior:
                mean = torch.zeros_like(targets)
                covariance = self.model.covar_module.forward(points, points)
            else:
                posterior = self.model(points)
                mean, covariance = posterior.mean, posterior.covariance_matrix
            noise = getattr(self.model.likelihood, "second_noise", self.model.likelihood.noise)
            noisy = covariance + noise.unsqueeze(-1) * torch.eye(len(points), dtype=targets.dtype)
            density = _GaussianLogDensity.apply(noisy, targets - mean)
        return np.asarray(density.numpy(), dtype=np.float64)


def fit(
    x: Array,
    y: Array,
    lengthscales: Array | None = None,
    hyperpriors: Hyperpriors | None = None,
    kernel: KernelMaker | None = None,
    variance: Array | None = None,
    lengthscale_bounds: tuple[float, float] = LENGTHSCALE_BOUNDS,
    correlated: int = 0,
) -> Surrogate:
    """Fit one zero-mean ARD Matern-5/2 GP per objective to standardised targets (Eq. 15-19).

    `x` (n, D) and `y` (n, m) are the completed evaluations, n >= 1; `lengthscales` (D,) is where
    every objective's lengthscales start (Eq. 18), GPyTorch's default when None; `kernel` makes
    the kernel in place of the paper's, from keyword arguments of MaternKernel; `variance` (n, m)
    is the noise known of each observation, in squared units of `y`, to which the fit adds what it
    learns: one noise for all observations, known or not; `lengthscale_bounds` are the smallest and
    the largest lengthscale that the fit may choose; of the first `correlated` objectives the GPs
    are those of their principal components (`principal_components`). The likelihood (posterior,
    with `hyperpriors`) is optimised from that point alone, so the result depends on nothing but the
    arguments. A fit that fails keeps the initial hyperparameters and says so in the returned
    status.
    """
    start = time.process_time()
    known = None if variance is None or not variance.any() else torch.as_tensor(variance)
    data = (torch.as_tensor(x), torch.as_tensor(y))
    model = _build(*data, lengthscales, hyperpriors, kernel, known, lengthscale_bounds, correlated)
    initial = _lengthscales(model)
    status = _optimise(model)
    model.eval()
    model.requires_grad_(False)
    seconds = time.process_time() - start
    return Surrogate(model, status, _lengthscales(model), initial, correlated > 0, seconds)


def _lengthscales(model: SingleTaskGP) -> Array:
    """The lengthscales of the kernel, a row for each objective."""
    present = model.covar_module.base_kernel.lengthscale.detach()
    return np.array(present.reshape(model.num_outputs, -1).numpy(), dtype=np.float64)


def _build(
    x: torch.Tensor,
    y: torch.Tensor,
    lengthscales: Array | None,
    priors: Hyperpriors | None,
    make_kernel: KernelMaker | None = None,
    variance: torch.Tensor | None = None,
    lengthscale_bounds: tuple[float, float] = LENGTHSCALE_BOUNDS,
    correlated: int = 0,
) -> SingleTaskGP:
    priors = priors or Hyperpriors()
    batch = torch.Size([y.shape[1]])
    make_kernel = make_kernel or partial(MaternKernel, nu=2.5, ard_num_dims=x.shape[1])
    kernel = make_kernel(
        batch_shape=batch,
        lengthscale_prior=priors.lengthscale,
        lengthscale_constraint=LogTransformedInterval(
            *lengthscale_bounds, initial_value=DEFAULT_LENGTHSCALE
        ),
    )
    covariance = ScaleKernel(
        kernel,
        batch_shape=batch,
        outputscale_prior=priors.outputscale,
        outputscale_constraint=LogTransformedInterval(*OUTPUTSCALE_BOUNDS, initial_value=1.0),
    )
    size = y.shape[1]
    scaling = PrincipalComponents(size, correlated) if correlated else Standardize(m=size)
    model = SingleTaskGP(
        x,
        y,
        likelihood=_likelihood(scaling, y, variance, priors),
        mean_module=ZeroMean(batch_shape=batch),
        covar_module=covariance,
        outcome_transform=scaling,
    ).to(x)
    if lengthscales is not None:
        kernel.lengthscale = torch.as_tensor(lengthscales).expand_as(kernel.lengthscale)
    return model


def _likelihood(
    scaling: Standardize, y: torch.Tensor, variance: torch.Tensor | None, priors: Hyperpriors
) -> GaussianLikelihood | FixedNoiseGaussianLikelihood:
    """One learned noise for all observations, on top of the known `variance` (n, m) of each."""
    learned: dict[str, Any] = {
        "batch_shape": torch.Size([y.shape[1]]),
        "noise_prior": priors.noise,
        "noise_constraint": LogTransformedInterval(*NOISE_BOUNDS, initial_value=INITIAL_NOISE),
    }
    if variance is None:
        return GaussianLikelihood(**learned)
    _, known = scaling(y, variance)
    # GPyTorch would raise smaller values itself, with a warning; the learned noise covers them.
    known = known.mT.clamp_min(min_fixed_noise.value(known.dtype))
    return FixedNoiseGaussianLikelihood(known, learn_additional_noise=True, **learned)


def _optimise(model: SingleTaskGP) -> tuple[str, ...]:
    """Optimise the hyperparameters in place; one status an objective."""
    objectives = int(model.num_outputs)
    try:
        fit_gpytorch_mll(
            ExactMarginalLogLikelihood(model.likelihood, model),
            optimizer=_independent_lbfgs,
            max_attempts=1,
        )
    except (ModelFittingError, NotPSDError, NanError) as error:
        # BoTorch has rolled every hyperparameter back to where it started.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return (f"initial: {reason}",) * objectives
    return ("fitted",) * objectives


def _independent_lbfgs(
    mll: ExactMarginalLogLikelihood,
    closure: Callable[[], Any] | None = None,  # noqa: ARG001 - BoTorch's optimizer signature
) -> OptimizationResult:
    """BoTorch's batched L-BFGS-B, one problem an objective, on the lean likelihood."""
    parameters, bounds = get_parameters_and_bounds(mll)
    parameters = {name: p for name, p in parameters.items() if p.requires_grad}
    shape = mll.model._aug_batch_shape
    evaluate = BatchedNDarrayOptimizationClosure(
        forward=lambda: -log_likelihood(mll.model), parameters=parameters, batch_shape=shape
    )
    solutions, values, results = fmin_l_bfgs_b_batched(
        func=evaluate,
        x0=evaluate.state,
        bounds=get_per_element_bounds(parameters, bounds, shape),
        factr=None,
        ftol=RELATIVE_TOLERANCE,
        maxiter=MAXIMUM_ITERATIONS,
        pass_batch_indices=True,
    )
    if not np.isfinite(values).all():
        raise ModelFittingError("the log likelihood is not finite at the optimum")
    evaluate.state = solutions
    return OptimizationResult(
        step=max(result.nit for result in results),
        fval=float(values.sum()),
        status=OptimizationStatus.SUCCESS,
    )


def log_likelihood(model: SingleTaskGP) -> torch.Tensor:
    """Log marginal likelihood plus log hyperpriors of each objective, over n: shape (m,).

    The quantity ExactMarginalLogLikelihood computes for a model in training mode.
    """
    (x,), y = model.train_inputs, model.train_targets
    count = y.shape[-1]
    covariance = model.covar_module.forward(x, x)
    noisy = covariance + model.likelihood.noise.unsqueeze(-1) * torch.eye(count, dtype=y.dtype)
    value = _GaussianLogDensity.apply(noisy, y)
    for _, module, prior, extract, _ in model.named_priors():
        logs = prior.log_prob(extract(module))
        value = value + logs.reshape(*y.shape[:-1], -1).sum(dim=-1)
    return value / count


class _GaussianLogDensity(torch.autograd.Function):  # type: ignore[misc]
    """log N(y | 0, K) for K (m, n, n), y (m, n); gradient (a a' - K^-1) / 2 with a = K^-1 y."""

    @staticmethod
    def forward(ctx: Any, covariance: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        root, failed = torch.linalg.cholesky_ex(covariance)
        if bool(failed.any()):
            raise NotPSDError("the kernel matrix is not positive definite")
        inverse = torch.cholesky_inverse(root)
        weights = (inverse @ y.unsqueeze(-1)).squeeze(-1)
        ctx.save_for_backward(inverse, weights)
        log_det = 2.0 * root.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return -0.5 * ((y * weights).sum(-1) + log_det + y.shape[-1] * math.log(2.0 * math.pi))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        inverse, weights = ctx.saved_tensors
        outer = weights.unsqueeze(-1) * weights.unsqueeze(-2)
        return 0.5 * grad[..., None, None] * (outer - inverse), None
