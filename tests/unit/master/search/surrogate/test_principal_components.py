"""Objectives turned to their principal components, and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from apbmm_master.search.acquisition.joint_samples import draw
from apbmm_master.search.surrogate.gaussian_process import Surrogate, fit
from apbmm_master.search.surrogate.principal_components import PrincipalComponents

Array = npt.NDArray[np.float64]


def opposite(count: int = 20, more: int = 0, noise: float = 0.02) -> tuple[Array, Array]:
    """Vectors (n, 3), two nearly opposite objectives, and `more` that are like neither."""
    rng = np.random.default_rng(3)
    x = rng.random((count, 3))
    thinking = np.tanh(4.0 * (x.mean(axis=1) - 0.5))
    y = [thinking, -2.0 * thinking, *(np.sin(5.0 * x[:, k]) for k in range(more))]
    return x, np.stack(y, axis=1) + noise * rng.standard_normal((count, 2 + more))


@pytest.mark.parametrize(("more", "correlated"), [(0, 2), (1, 2), (1, 3)])
def test_components_are_not_correlated_and_turn_back(more: int, correlated: int) -> None:
    y = torch.as_tensor(opposite(more=more)[1])
    transform = PrincipalComponents(y.shape[1], correlated)
    components, variances = transform(y, torch.full_like(y, 0.01))
    transform.eval()
    covariance = components.T.cov()[:correlated, :correlated]
    off_diagonal = covariance - covariance.diagonal().diag()
    assert float(off_diagonal.abs().max()) < 1e-9
    torch.testing.assert_close(transform(y)[0], components)
    torch.testing.assert_close(transform.untransform(components)[0], y)
    # The noise of all outcomes together is what it was, in their standard deviations.
    expected = (0.01 / y.var(dim=0)).sum()
    torch.testing.assert_close(variances.sum(dim=-1), expected.expand(len(y)))
    standard = (y - y.mean(dim=0)) / y.std(dim=0)
    torch.testing.assert_close(components[:, correlated:], standard[:, correlated:])


def test_of_two_objectives_they_are_the_sum_and_the_difference() -> None:
    y = torch.as_tensor(opposite()[1])
    transform = PrincipalComponents(2, 2)
    transform(y)
    np.testing.assert_allclose(np.abs(transform.axes.numpy()), np.sqrt(0.5))
    assert float(transform.axes[:, 0].prod()) > 0.0, "the sum varies less, and comes first"


def moments(surrogate: Surrogate, at: Array) -> tuple[Array, Array, Array]:
    """Mean and deviation (b, m) of samples, and the correlation (b,) of the first two outcomes."""
    joint = draw(surrogate.model, torch.as_tensor(at), 4096, spare=1, seed=3)
    values = joint.values.numpy()
    correlation = [np.corrcoef(values[:, b, 0], values[:, b, 1])[0, 1] for b in range(len(at))]
    return values.mean(axis=0), values.std(axis=0), np.array(correlation)


def test_posterior_and_samples_agree_and_are_correlated() -> None:
    x, y = opposite(more=1)
    at = np.random.default_rng(9).random((5, 3))
    for correlated in (0, 2):
        surrogate = fit(x, y, correlated=correlated)
        assert surrogate.correlated == (correlated > 0)
        mean, deviation = surrogate.predicted(at)
        sampled_mean, sampled_deviation, correlation = moments(surrogate, at)
        assert (np.abs(sampled_mean - mean) < 0.02 * deviation).all()
        np.testing.assert_allclose(sampled_deviation, deviation, rtol=0.05)
        np.testing.assert_allclose(surrogate.mean(at), mean)
        if correlated:
            assert (correlation < -0.5).all()
        else:
            assert (np.abs(correlation) < 0.1).all()


def test_opposite_objectives_are_predicted_better_together() -> None:
    """The sum of their predictions is nearer to the truth."""
    x, y = opposite(8)
    at, _ = opposite(40)
    truth = np.tanh(4.0 * (at.mean(axis=1) - 0.5))
    errors = []
    for correlated in (0, 2):
        mean = fit(x, y, correlated=correlated).mean(at)
        errors.append(float(np.abs(mean[:, 0] + 0.5 * mean[:, 1]).mean()))
    assert np.ptp(truth) > 1.0
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_observations_have_components(count: int) -> None:
    x, y = opposite(count)
    mean, deviation = fit(x, y, correlated=2).predicted(x)
    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()
