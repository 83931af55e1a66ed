"""Merges measured in steps: what can be gained by going on with a merge, and what is chosen.

All merges answer the questions in one fixed order. After each step of that order a merge may pause:
it keeps its answers, and its objectives in full are an estimate with a variance. This module holds
the choices and knows nothing of workers. New vectors are measured up to their first step until the
rest of the budget is about what the front of all estimates needs (`reserve`). From then on the
paused merge with the largest expected gain per cost goes on, a step at a time (`completed_next`).
Of the rules compared in `benchmarks/results/evaluation_cost.md` this one was the best.

`certainly_beaten` is the exact bound, after which nothing more can be gained. `audited` draws the
pauses that are completed all the same, so that estimates can be checked.

Objectives are maximised. Costs have any one unit, tokens or seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import WrongShapeError
from apbmm_master.search.pareto import front

SMALLEST_DEVIATION = 1e-9


@dataclass(frozen=True)
class Paused:
    """A merge measured in part that nobody measures now.

    - `mean`, `deviation` (m,): of the objectives that it would have if it were measured in full;
    - `cost`: what its other questions are expected to cost, another hot-load included.
    """

    mean: Array
    deviation: Array
    cost: float


def step_ends(questions: int, shares: Sequence[float]) -> tuple[int, ...]:
    """How many questions are answered after each step; the last step ends with all of them."""
    ends = {max(1, round(share * questions)) for share in shares if share < 1.0}
    return (*sorted(end for end in ends if end < questions), questions)


def expected_gain(mean: Array, deviation: Array, measured: Array, reference: Array) -> Array:
    """Expected hypervolume improvement (b,) of two independent Gaussian objectives, exact.

    `mean`, `deviation` (b, 2); `measured` (n, 2) are the points whose front is improved, above
    `reference` (2,). Over the strips between neighbours of the front the improvement is a product
    of one function of each objective (Yang et al., 2019, doi 10.1016/j.swevo.2018.10.007). Raises
    WrongShapeError for another number of objectives.
    """
    if mean.shape[1] != 2:
        raise WrongShapeError(f"the expected gain is for two objectives, not {mean.shape[1]}")
    points = measured.reshape(-1, 2)
    points = points[(points > reference).all(axis=1)]
    points = np.unique(points[front(points)], axis=0)
    lefts = np.concatenate([reference[:1], points[:, 0]])
    floors = np.concatenate([points[:, 1], reference[1:]])
    beyond = _expected_excess(mean[:, :1], deviation[:, :1], lefts)
    widths = beyond - np.concatenate([beyond[:, 1:], np.zeros((len(mean), 1))], axis=1)
    heights = _expected_excess(mean[:, 1:], deviation[:, 1:], floors)
    return np.asarray((widths * heights).sum(axis=1))


def chance_of_feasibility(mean: Array, deviation: Array) -> float:
    """The probability that independent Gaussian margins (c,) are all at least 0; 1 without any."""
    from scipy.special import ndtr

    return float(ndtr(mean / np.maximum(deviation, SMALLEST_DEVIATION)).prod())


def _expected_excess(mean: Array, deviation: Array, bounds: Array) -> Array:
    """E max(Y - bound, 0) of Gaussian Y."""
    from scipy.special import ndtr  # showing the state of a run needs none of it

    spread = np.maximum(deviation, SMALLEST_DEVIATION)
    scaled = (mean - bounds) / spread
    density = np.exp(-0.5 * scaled**2) / np.sqrt(2.0 * np.pi)
    return np.asarray((mean - bounds) * ndtr(scaled) + spread * density)


def certainly_beaten(best: Array, measured: Array) -> bool:
    """Whether a measured merge dominates or equals `best` (m,), the best that a merge can reach.

    At temperature 0 that is: every unanswered question right, and no token more than has been
    generated. So a member of the front of full measurements is never lost.
    """
    return bool((measured.reshape(-1, len(best)) >= best).all(axis=1).any())


def reserve(paused: Sequence[Paused], measured: Array) -> float:
    """What it is expected to cost to complete the front of all estimates and measurements."""
    if not paused:
        return 0.0
    means = np.stack([merge.mean for merge in paused])
    on_front = front(np.concatenate([means, measured.reshape(-1, means.shape[1])]))
    return float(sum(paused[i].cost for i in on_front if i < len(paused)))


def completed_next(paused: Sequence[Paused], gains: Array, left: float) -> int | None:
    """Index of the paused merge with the largest gain per cost that the budget's rest allows."""
    allowed = [i for i, merge in enumerate(paused) if merge.cost <= left and gains[i] > 0.0]
    return max(allowed, key=lambda i: float(gains[i]) / paused[i].cost, default=None)


def audited(seed: int, evaluation: int, share: float = 0.1) -> bool:
    """Whether this evaluation is completed although it would pause; drawn once, repeatable."""
    return bool(np.random.default_rng([seed, evaluation]).random() < share)
