"""The kernel over a merge's weights and summaries, and the model that has it."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch

from apbmm_master.search.acquisition.log_nehvi import pending_aware
from apbmm_master.search.surrogate.gaussian_process import Surrogate, fit
from apbmm_master.search.surrogate.hyperpriors import dimension_scaled
from apbmm_master.search.surrogate.merge_kernel import (
    IMPORTANCE_FLOOR,
    MergeKernel,
    source_weights,
    summary_count,
)

Array = npt.NDArray[np.float64]
IMPORTANCE = np.array([0.9, 0.1, 0.5, 0.0])


def literal_summaries(x: Array, importance: Array | None) -> list[float]:
    found = [sum(x) / len(x)]
    if importance is not None:
        weights = [score + IMPORTANCE_FLOOR for score in importance]
        found.append(sum(w * v for w, v in zip(weights, x, strict=True)) / sum(weights))
    return [*found, sum(4 * v * (1 - v) for v in x) / len(x)]


@pytest.mark.parametrize("importance", [None, IMPORTANCE], ids=["without", "with importance"])
def test_the_kernel_is_matern_over_weights_and_summaries(importance: Array | None) -> None:
    rng = np.random.default_rng(0)
    x, other = rng.random((5, 4)), rng.random((3, 4))
    kernel = MergeKernel(4, importance).double()
    size = 4 + summary_count(importance)
    scales = rng.uniform(0.3, 2.0, size)
    kernel.lengthscale = torch.as_tensor(scales)
    with torch.no_grad():
        got = kernel.forward(torch.as_tensor(x), torch.as_tensor(other)).numpy()
    for i, a in enumerate(x):
        for j, b in enumerate(other):
            first, second = ([*v, *literal_summaries(v, importance)] for v in (a, b))
            assert len(first) == size
            parts = zip(first, second, scales, strict=True)
            r = math.sqrt(5 * sum(((p - q) / scale) ** 2 for p, q, scale in parts))
            assert got[i, j] == pytest.approx((1 + r + r * r / 3) * math.exp(-r), rel=1e-9)


def test_an_importance_of_zeros_is_the_plain_mean() -> None:
    with_summaries = MergeKernel(4, np.zeros(4)).with_summaries(
        torch.tensor([[0.2, 0.4, 0.9, 0.1]]).double()
    )
    assert (
        float(with_summaries[0, 4])
        == pytest.approx(float(with_summaries[0, 5]))
        == pytest.approx(0.4)
    )


def test_each_number_of_a_layer_weights_the_mean_of_its_own_source() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.7], [0.0, 0.5]])
    x = torch.as_tensor(np.random.default_rng(0).random((1, 6)))
    found = MergeKernel(6, scores.ravel(), 2).with_summaries(x)[0, 6:10]
    shares, rows = scores + IMPORTANCE_FLOOR, source_weights(x, 2)[0].numpy()
    for source in (0, 1):
        plain, weighted = found[2 * source : 2 * source + 2]
        assert float(plain) == pytest.approx(rows[:, source].mean())
        expected = np.average(rows[:, source], weights=shares[:, source])
        assert float(weighted) == pytest.approx(expected)


def merges(count: int, dimensions: int, seed: int) -> Array:
    """Merges whose means cover [0, 1]."""
    rng = np.random.default_rng(seed)
    level = rng.random((count, 1))
    return np.clip(level + 0.25 * rng.normal(size=(count, dimensions)), 0.0, 1.0)


def model_of(x: Array, y: Array, importance: Array | None, *, seen: bool) -> Surrogate:
    size = x.shape[1]
    priors = dimension_scaled(size, summaries=summary_count(importance) if seen else 0, scale=1.0)
    kernel = partial(MergeKernel, size, importance) if seen else None
    return fit(x, y, hyperpriors=priors, kernel=kernel)


def test_summaries_predict_what_follows_from_the_mean() -> None:
    """Twelve merges of 30 layers: too few to learn the layers, enough to learn the mean."""
    x, unseen = merges(12, 30, seed=1), merges(50, 30, seed=2)

    def scores(x: Array) -> Array:
        mean = x.mean(axis=1)
        return np.stack([np.sin(6.0 * mean), np.exp(-2.0 * mean)], axis=1)

    errors = {
        seen: np.abs(model_of(x, scores(x), None, seen=seen).mean(unseen) - scores(unseen)).mean()
        for seen in (False, True)
    }
    assert errors[True] < 0.25 * errors[False]


def test_the_acquisition_samples_such_a_model_as_botorch_does() -> None:
    x = merges(12, 4, seed=3)
    y = np.stack([np.sin(3.0 * x.mean(axis=1)), np.cos(3.0 * x @ IMPORTANCE)], axis=1)
    model = model_of(x, y, IMPORTANCE, seen=True).model
    nowhere = torch.empty(0, 4).double()
    acquisition = pending_aware(model, torch.tensor([-0.2, -0.2]).double(), nowhere, samples=4096)
    points = torch.as_tensor(merges(5, 4, seed=4))
    with torch.no_grad():
        samples = acquisition.joint.at(points)
        posterior = model.posterior(points)
    spread = posterior.variance.sqrt()
    assert float(((samples.mean(dim=0) - posterior.mean).abs() / spread).max()) < 0.05
    torch.testing.assert_close(samples.std(dim=0), spread, rtol=0.05, atol=1e-4)
