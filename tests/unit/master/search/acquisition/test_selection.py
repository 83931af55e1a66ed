"""The joint of surrogate, acquisition and reranking."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from apbmm_master.search.acquisition.rerank import rerank
from apbmm_master.search.acquisition.selection import Selection, SelectionSettings, select
from apbmm_master.search.pareto import hypervolume
from apbmm_master.search.surrogate.gaussian_process import Surrogate, fit

Array = npt.NDArray[np.float64]
REFERENCE = np.array([-0.2, -0.2])
CHEAP = SelectionSettings(samples=32, restarts=3, raw_samples=64)
RNG = np.random.default_rng(4)
X = RNG.random((14, 4))
Y = np.stack([X.mean(axis=1), 1.0 - X.mean(axis=1) ** 2], axis=1)
PENDING = RNG.random((3, 4))


@pytest.fixture(scope="module")
def surrogate() -> Surrogate:
    return fit(X, Y)


def run(surrogate: Surrogate, count: int, seed: int = 1) -> Selection:
    return select(
        surrogate, Y, PENDING, count, reference_point=REFERENCE, seed=seed, settings=CHEAP
    )


@pytest.mark.parametrize(("count", "size"), [(1, 3), (4, 12), (6, 14)])
def test_the_pool_is_kappa_times_the_count_for_few_vectors(
    surrogate: Surrogate, count: int, size: int
) -> None:
    selection = run(surrogate, count)
    assert selection.pool.shape == (size, 4)
    assert len(selection.pool[selection.chosen]) == len(set(selection.chosen.tolist())) == count


def test_the_choice_is_the_reranking_of_the_reported_scores(surrogate: Surrogate) -> None:
    selection = run(surrogate, 2)
    expected = rerank(
        selection.pool,
        np.array(selection.report.acquisition),
        surrogate.mean(selection.pool),
        Y,
        PENDING,
        2,
    )
    np.testing.assert_array_equal(selection.chosen, expected.chosen)
    np.testing.assert_allclose(selection.report.scores, expected.scores)


def test_a_selection_repeats_and_leaves_torchs_generator_alone(surrogate: Surrogate) -> None:
    state = torch.random.get_rng_state()
    first, second, other = run(surrogate, 1), run(surrogate, 1), run(surrogate, 1, seed=2)
    np.testing.assert_array_equal(first.pool, second.pool)
    assert not np.array_equal(first.pool, other.pool)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_report_is_plain_numbers(surrogate: Surrogate) -> None:
    report = run(surrogate, 1).report
    assert report.fit_status == ("fitted", "fitted")
    assert len(report.lengthscales) == 2
    assert all(type(v) is float for v in (*report.lengthscales[0], *report.acquisition))
    assert report.search_seconds > 0.0


def concave(x: Array) -> Array:
    """A front along the diagonal of the first coordinate, reached where the second is 0.3."""
    loss = 3.0 * (x[:, 1] - 0.3) ** 2 + (x[:, 2] - 0.7) ** 2
    return np.stack([np.sin(1.5 * x[:, 0]) - loss, np.cos(1.5 * x[:, 0]) - loss], axis=1)


def test_selected_vectors_beat_random_points_of_the_same_number() -> None:
    x = np.random.default_rng(0).random((6, 4))
    for step in range(6):
        y = concave(x)
        found = select(
            fit(x, y),
            y,
            np.empty((0, 4)),
            2,
            reference_point=REFERENCE,
            seed=step,
            settings=CHEAP,
        )
        x = np.concatenate([x, found.pool[found.chosen]])
    searched = hypervolume(concave(x), REFERENCE)
    random = [
        hypervolume(concave(np.random.default_rng(seed).random((18, 4))), REFERENCE)
        for seed in range(20)
    ]
    assert searched > max(random)
