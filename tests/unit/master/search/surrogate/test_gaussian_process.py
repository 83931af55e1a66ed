"""The surrogate: kernel and likelihood by their formulas, the fit, and what survives."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from botorch.exceptions.errors import ModelFittingError
from gpytorch.priors import LogNormalPrior
from linear_operator.utils.errors import NotPSDError

from apbmm_master.search.surrogate import gaussian_process
from apbmm_master.search.surrogate.gaussian_process import Hyperpriors, _build, fit, log_likelihood
from gpytorch_likelihood import assert_as_gpytorch

Array = npt.NDArray[np.float64]


def data(count: int = 15, dimensions: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(2)
    x = rng.random((count, dimensions))
    y = np.stack([np.sin(4.0 * x[:, 0]), 3.0 + 2.0 * x[:, 1] ** 2], axis=1)
    return x, y + 0.01 * rng.standard_normal(y.shape)


def literal_kernel(x: Array, lengthscales: Array, variance: float) -> Array:
    """Eq. 16 and 17, entry by entry."""
    kernel = np.empty((len(x), len(x)))
    for i, a in enumerate(x):
        for j, b in enumerate(x):
            pairs = zip(a, b, lengthscales, strict=True)
            r = math.sqrt(sum(((p - q) / scale) ** 2 for p, q, scale in pairs))
            kernel[i, j] = variance * (1 + math.sqrt(5) * r + 5 / 3 * r * r)
            kernel[i, j] *= math.exp(-math.sqrt(5) * r)
    return kernel


def test_the_likelihood_is_equation_19_of_standardised_targets() -> None:
    x, y = data()
    start = np.array([0.5, 1.0, 2.0])
    model = _build(torch.as_tensor(x), torch.as_tensor(y), start, None)
    values = log_likelihood(model).detach()
    kernel = literal_kernel(x, start, 1.0) + gaussian_process.INITIAL_NOISE * np.eye(len(x))
    for k in range(2):
        target = (y[:, k] - y[:, k].mean()) / y[:, k].std(ddof=1)
        fit_term = float(target @ np.linalg.solve(kernel, target))
        log_det = float(np.linalg.slogdet(kernel)[1])
        expected = -0.5 * (fit_term + log_det + len(x) * math.log(2 * math.pi)) / len(x)
        assert float(values[k]) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("with_priors", [False, True])
def test_the_lean_likelihood_and_gradient_are_gpytorchs(with_priors: bool) -> None:
    x, y = data()
    priors = Hyperpriors(
        lengthscale=LogNormalPrior(0.5, 1.0),
        outputscale=LogNormalPrior(0.0, 0.5),
        noise=LogNormalPrior(-4.0, 1.0),
    )
    model = _build(torch.as_tensor(x), torch.as_tensor(y), None, priors if with_priors else None)
    model.train()
    assert_as_gpytorch(model, value=1e-10, gradient=1e-7)


def test_the_fit_raises_the_likelihood_and_finds_the_relevant_dimension() -> None:
    x, y = data(30)
    before = log_likelihood(_build(torch.as_tensor(x), torch.as_tensor(y), None, None))
    fitted = fit(x, y)
    assert fitted.status == ("fitted", "fitted")
    after = log_likelihood(fitted.model)
    assert bool((after > before + 0.5).all())
    assert fitted.lengthscales[0].argmin() == 0
    assert fitted.lengthscales[1].argmin() == 1
    np.testing.assert_allclose(fitted.mean(x), y, atol=0.1)


def test_the_prior_sets_where_every_objective_starts() -> None:
    x, y = data()
    start = np.array([0.5, 2.0, 5.0])
    kernel = _build(torch.as_tensor(x), torch.as_tensor(y), start, None).covar_module.base_kernel
    np.testing.assert_allclose(kernel.lengthscale.detach()[:, 0], [start, start])
    plain = _build(torch.as_tensor(x), torch.as_tensor(y), None, None).covar_module.base_kernel
    np.testing.assert_allclose(plain.lengthscale.detach(), math.log(2.0))


def test_the_papers_model_has_no_hyperpriors() -> None:
    x, y = data()
    assert not list(fit(x, y).model.named_priors())


def test_the_fit_depends_on_its_arguments_alone() -> None:
    x, y = data()
    first, second = fit(x, y), fit(x, y)
    np.testing.assert_array_equal(first.lengthscales, second.lengthscales)


def test_a_failed_fit_keeps_the_initial_hyperparameters_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModelFittingError("All attempts to fit the model have failed.")

    monkeypatch.setattr(gaussian_process, "fit_gpytorch_mll", fail)
    x, y = data()
    start = np.array([0.5, 2.0, 5.0])
    fitted = fit(x, y, start)
    assert fitted.status == ("initial: All attempts to fit the model have failed.",) * 2
    np.testing.assert_allclose(fitted.lengthscales, [start, start])
    assert np.isfinite(fitted.mean(x)).all()


def test_an_optimiser_that_breaks_halfway_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = log_likelihood, 0

    def breaks(model: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise NotPSDError("the kernel matrix is not positive definite")
        return real(model)

    monkeypatch.setattr(gaussian_process, "log_likelihood", breaks)
    x, y = data()
    start = np.array([0.5, 2.0, 5.0])
    fitted = fit(x, y, start)
    assert calls > 3
    assert all(status.startswith("initial: ") for status in fitted.status)
    np.testing.assert_allclose(fitted.lengthscales, [start, start])


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_observations_fit(count: int) -> None:
    x, y = data(count)
    assert np.isfinite(fit(x, y).mean(x)).all()


def test_constant_and_duplicate_observations_fit() -> None:
    x = np.repeat([[0.2, 0.4, 0.6]], 6, axis=0)
    y = np.repeat([[0.5, 0.1]], 6, axis=0)
    np.testing.assert_allclose(fit(x, y).mean(x), y, atol=1e-9)


@pytest.mark.parametrize("known", [None, 0.02])
def test_leave_one_out_is_the_prediction_from_the_others(known: float | None) -> None:
    x, y = data(8)
    variance = None if known is None else np.full_like(y, known)
    fitted = fit(x, y, variance=variance)
    means, deviations = fitted.leave_one_out()
    assert means.shape == deviations.shape == y.shape
    points = torch.as_tensor(x)
    kernels = fitted.model.covar_module(points).to_dense().numpy()
    noises = fitted.model.likelihood.noise.numpy()
    for k in range(y.shape[1]):
        centre, scale = y[:, k].mean(), y[:, k].std(ddof=1)
        target = (y[:, k] - centre) / scale
        noise = np.broadcast_to(noises[k], len(x))
        for i in range(len(x)):
            others = np.arange(len(x)) != i
            gram = kernels[k][np.ix_(others, others)] + np.diag(noise[others])
            weights = np.linalg.solve(gram, kernels[k][others, i])
            mean = weights @ target[others]
            spread = kernels[k][i, i] + noise[i] - weights @ kernels[k][others, i]
            assert means[i, k] == pytest.approx(centre + scale * mean, rel=1e-6)
            assert deviations[i, k] == pytest.approx(scale * math.sqrt(spread), rel=1e-6)


def test_leave_one_out_of_correlated_objectives_is_theirs() -> None:
    """By its own formula: with the components' models, each observation from the others."""
    x, y = data(8)
    fitted = fit(x, y, correlated=2)
    means, deviations = fitted.leave_one_out()
    axes = fitted.model.outcome_transform.axes.numpy()
    scale = y.std(axis=0, ddof=1)
    targets = (y - y.mean(axis=0)) / scale @ axes
    kernels = fitted.model.covar_module(torch.as_tensor(x)).to_dense().numpy()
    noises = fitted.model.likelihood.noise.numpy()
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        found = []
        for k in range(2):
            gram = kernels[k][np.ix_(others, others)] + noises[k] * np.eye(len(x) - 1)
            weights = np.linalg.solve(gram, kernels[k][others, i])
            spread = kernels[k][i, i] + noises[k, 0] - weights @ kernels[k][others, i]
            found.append((weights @ targets[others, k], spread))
        mean, variance = np.array(found).T
        np.testing.assert_allclose(means[i], y.mean(axis=0) + scale * (axes @ mean), rtol=1e-6)
        np.testing.assert_allclose(deviations[i], scale * np.sqrt(axes**2 @ variance), rtol=1e-6)


def test_a_fit_tells_where_its_lengthscales_began() -> None:
    x, y = data()
    start = np.array([0.5, 1.0, 2.0])
    fitted = fit(x, y, start)
    np.testing.assert_allclose(fitted.initial_lengthscales, np.stack([start, start]))
    assert (fitted.lengthscales != fitted.initial_lengthscales).any()
