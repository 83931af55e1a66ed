"""Noise that is told: in the likelihood, in the samples, and in what `ap-bmm-plus` proposes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gpytorch.priors import LogNormalPrior

from apbmm_master.optimiser.process import AskRequest, OptimiserSession, PastTell, SearchArguments
from apbmm_master.search.acquisition.log_nehvi import pending_aware
from apbmm_master.search.methods import Search, create
from apbmm_master.search.surrogate.gaussian_process import INITIAL_NOISE, Hyperpriors, _build, fit
from apbmm_master.search.surrogate.hyperpriors import dimension_scaled
from gpytorch_likelihood import assert_as_gpytorch

Array = npt.NDArray[np.float64]
RNG = np.random.default_rng(5)
X = RNG.random((16, 3))
Y = np.stack([np.sin(3.0 * X[:, 0]), 2.0 - 4.0 * X[:, 1]], axis=1)
# Some told, some not, as a caller that knows only some of its noise would.
MIXED = np.where(RNG.random(Y.shape) < 0.5, 0.0, RNG.random(Y.shape))
MAP = dimension_scaled(3)
CHEAP = {"samples": 16, "restarts": 2, "raw_samples": 16}


def test_known_noise_adds_to_the_learned_on_the_scale_of_the_standardised_targets() -> None:
    model = _build(torch.as_tensor(X), torch.as_tensor(Y), None, None, None, torch.as_tensor(MIXED))
    expected = INITIAL_NOISE + (MIXED / Y.var(axis=0, ddof=1)).T
    np.testing.assert_allclose(model.likelihood.noise.detach(), expected, atol=2e-6)


def test_the_lean_likelihood_and_gradient_are_gpytorchs() -> None:
    priors = Hyperpriors(noise=LogNormalPrior(-4.0, 1.0))
    data = torch.as_tensor(X), torch.as_tensor(Y)
    model = _build(*data, None, priors, None, torch.as_tensor(MIXED)).train()
    assert_as_gpytorch(model, value=1e-9, gradient=1e-6)


def test_zero_variances_are_none() -> None:
    np.testing.assert_array_equal(
        fit(X, Y, variance=np.zeros_like(Y)).lengthscales, fit(X, Y).lengthscales
    )


def test_a_variance_of_zero_beside_others_fits_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit(X, Y, hyperpriors=MAP, variance=MIXED)
        assert np.isfinite(fitted.mean(X)).all()
    assert fitted.status == ("fitted", "fitted")


def test_an_observation_with_a_huge_variance_is_nearly_ignored() -> None:
    wrong, variance = Y.copy(), np.zeros_like(Y)
    wrong[7], variance[7] = Y.max(axis=0), 1e4
    at = X[7:8]
    without = fit(np.delete(X, 7, axis=0), np.delete(Y, 7, axis=0), hyperpriors=MAP).mean(at)
    told = fit(X, wrong, hyperpriors=MAP, variance=variance).mean(at)
    untold = fit(X, wrong, hyperpriors=MAP).mean(at)
    error = np.abs(wrong[7] - without[0])
    assert (error > 0.2).all()
    assert (np.abs(told - without)[0] < 0.1 * error).all()
    assert (np.abs(untold - without)[0] > 0.5 * error).all()


def test_replicates_teach_the_fit_the_noise() -> None:
    """Eight answers at each of five vectors, in one objective with noise and one without."""
    rng = np.random.default_rng(1)
    x = np.repeat(rng.random((5, 3)), 8, axis=0)
    y = np.stack([x[:, 0] + 0.3 * rng.standard_normal(40), x[:, 1]], axis=1)
    fitted = fit(x, y, hyperpriors=MAP)
    learned = fitted.model.likelihood.noise[:, 0].numpy() * y.var(axis=0, ddof=1)
    within = y[:, 0].reshape(5, 8).var(axis=1, ddof=1).mean()
    assert learned[0] == pytest.approx(within, rel=0.3)
    assert learned[1] < 0.01 * within
    # The predictions are the means of the replicates, drawn towards one another.
    means = y.reshape(5, 8, 2).mean(axis=1)
    assert np.abs(fitted.mean(x[::8]) - means).max() < 0.15


def test_joint_samples_know_the_noise_of_each_observation() -> None:
    """Their moments at a candidate are those of BoTorch's posterior of the same model."""
    model = fit(X, Y, hyperpriors=MAP, variance=MIXED).model
    at = torch.as_tensor(RNG.random((5, 3)))
    none = torch.empty(0, 3, dtype=torch.float64)
    samples = pending_aware(model, torch.tensor([-9.0, -9.0]).double(), none, samples=4096).joint
    drawn, posterior = samples.at(at).detach(), model.posterior(at)
    deviation = posterior.variance.sqrt()
    assert bool(((drawn.mean(dim=0) - posterior.mean).abs() < 0.05 * deviation).all())
    torch.testing.assert_close(drawn.std(dim=0), deviation, rtol=0.05, atol=1e-6)


def make() -> Search:
    return create("ap-bmm-plus", 3, seed=2, initial=4, budget=20, **CHEAP)


def next_vector(variances: Sequence[Array | None]) -> Array:
    search = make()
    for x, y, variance in zip(X[:8], Y[:8], variances, strict=True):
        search.tell(x, y, variance)
    (vector,) = search.ask(1)
    return vector


def test_the_variance_of_an_observation_decides_what_is_proposed() -> None:
    untold: list[Array | None] = [None] * 8
    known: list[Array | None] = [*untold[:7], np.array([0.5, 0.5])]
    assert not np.array_equal(next_vector(untold), next_vector(known))
    np.testing.assert_array_equal(next_vector(known), next_vector(known))


def test_the_search_process_passes_on_the_variance() -> None:
    setup = SearchArguments("ap-bmm-plus", 3, 2, 2, 20, 4, 4, (-0.2, -0.2), settings=CHEAP)
    tells = [
        PastTell(tuple(x), tuple(y), (0.5, 0.5) if i == 7 else None)
        for i, (x, y) in enumerate(zip(X[:8].tolist(), Y[:8].tolist(), strict=True))
    ]
    reply = OptimiserSession().reply(AskRequest(setup, tuple(tells), (), 1))
    known: list[Array | None] = [*[None] * 7, np.array([0.5, 0.5])]
    np.testing.assert_array_equal(reply.vectors[0], next_vector(known))


def test_told_zeros_propose_what_no_variance_proposes() -> None:
    np.testing.assert_array_equal(next_vector([np.zeros(2)] * 8), next_vector([None] * 8))


def test_the_told_variance_is_copied() -> None:
    variance = np.array([0.5, 0.5])
    search, other = make(), make()
    for x, y in zip(X[:8], Y[:8], strict=True):
        search.tell(x, y, variance)
        other.tell(x, y, np.array([0.5, 0.5]))
    variance[:] = 0.0
    np.testing.assert_array_equal(search.ask(1)[0], other.ask(1)[0])
