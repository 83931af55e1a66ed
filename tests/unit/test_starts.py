"""Starts of the acquisition's optimisation near the front."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from apbmm_master import starts
from apbmm_master.acquisition import pending_aware
from apbmm_master.pool import MultiStart, optimise_pool
from apbmm_master.starts import near_front
from apbmm_master.surrogate import fit

Array = npt.NDArray[np.float64]
RNG = np.random.default_rng(6)
X = RNG.random((9, 12))
Y = np.stack([X.mean(axis=1), 1.0 - X.mean(axis=1)], axis=1)
A, B = np.full(12, 0.2), np.full(12, 0.6)


def test_starts_are_in_the_box_and_repeat() -> None:
    made = near_front(X, Y, 40, seed=1)
    assert made.shape == (40, 12)
    assert ((made >= 0.0) & (made <= 1.0)).all()
    np.testing.assert_array_equal(made, near_front(X, Y, 40, seed=1))
    assert not np.array_equal(made, near_front(X, Y, 40, seed=2))
    assert near_front(X, Y, 0, seed=1).shape == (0, 12)


def test_only_the_front_has_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "MOVES", (lambda parent, _partner, _rng: parent,))
    y = Y.copy()
    y[3] = [2.0, 2.0]
    np.testing.assert_array_equal(near_front(X, y, 5, seed=0), np.tile(X[3], (5, 1)))


@pytest.mark.parametrize("seed", range(5))
def test_the_moves_do_what_they_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert 0 < (starts.jump(A, B, rng) != A).sum() < 12
    assert np.abs(starts.jitter(A, B, rng) - A).max() < 6 * starts.JITTER
    on_line = starts.line(A, B, rng)
    assert np.ptp(on_line) < 1e-12
    assert 0.2 - 0.3 * 0.4 - 1e-9 <= on_line[0] <= 0.6 + 0.3 * 0.4 + 1e-9
    taken = np.flatnonzero(starts.block(A, B, rng) == B)
    assert len(taken) == 0 or len(taken) == taken[-1] - taken[0] + 1


def test_the_pool_is_optimised_from_the_starts_as_well() -> None:
    """One Sobol point and one start that is better than what is found from it."""
    acquisition = pending_aware(
        fit(X, Y).model, torch.tensor([-0.2, -0.2]).double(), torch.empty(0, 12).double()
    )
    found, _ = optimise_pool(acquisition, 1, MultiStart(), seed=0)
    lean = MultiStart(restarts=2, raw_samples=1, coarse_iterations=1, iterations=1)
    torch.manual_seed(0)
    _, without = optimise_pool(acquisition, 1, lean, seed=0)
    torch.manual_seed(0)
    _, value = optimise_pool(acquisition, 1, lean, seed=0, starts=found)
    assert float(value) >= float(acquisition.score(found)) - 1e-9 > float(without)
