"""Where the optimisation of an acquisition function starts, besides Sobol points.

In 36 dimensions every Sobol point is a merge with a mean near 1/2 and no structure. Good merges
are elsewhere: near those on the front, between them, between them and the two source models, or
near the uniform interpolation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from apbmm_master.arrays import Array
from apbmm_master.pareto import front

Move = Callable[[Array, Array, np.random.Generator], Array]
JITTER, JUMP = 0.1, 0.3  # standard deviations, in units of a layer's weight
JUMPING = 0.1  # share of the layers that a jump moves
BEYOND = 0.3  # how far a line through two merges goes on, in their distance
ALONG_THE_LINE = 0.2  # largest standard deviation around the uniform interpolation


def near_front(x: Array, y: Array, count: int, seed: int) -> Array:
    """`count` vectors (count, D) near the best of the completed (n, D) and (n, m).

    Each is made by the next of `MOVES` from two random parents, which are front members or one
    of the source models (all zeros, all ones).
    """
    rng = np.random.default_rng(seed)
    best = x[front(y)]
    ends = np.stack([np.zeros(x.shape[1]), np.ones(x.shape[1])])
    partners = np.concatenate([best, ends])
    made = [
        MOVES[index % len(MOVES)](
            best[rng.integers(len(best))], partners[rng.integers(len(partners))], rng
        )
        for index in range(count)
    ]
    return np.clip(np.array(made).reshape(count, x.shape[1]), 0.0, 1.0)


def jump(parent: Array, _: Array, rng: np.random.Generator) -> Array:
    """A few layers far away."""
    moved = rng.random(len(parent)) < max(JUMPING, 3.0 / len(parent))
    return np.where(moved, parent + JUMP * rng.normal(size=len(parent)), parent)


def jitter(parent: Array, _: Array, rng: np.random.Generator) -> Array:
    """Every layer a little away."""
    return parent + JITTER * rng.normal(size=len(parent))


def line(parent: Array, partner: Array, rng: np.random.Generator) -> Array:
    """On the line through both, between them or a little beyond."""
    return parent + rng.uniform(-BEYOND, 1.0 + BEYOND) * (partner - parent)


def block(parent: Array, partner: Array, rng: np.random.Generator) -> Array:
    """A run of neighbouring layers from the other."""
    first, last = np.sort(rng.integers(0, len(parent) + 1, size=2))
    child = parent.copy()
    child[first:last] = partner[first:last]
    return child


def uniform(parent: Array, _: Array, rng: np.random.Generator) -> Array:
    """Near the uniform interpolation."""
    return rng.random() + rng.uniform(0.0, ALONG_THE_LINE) * rng.normal(size=len(parent))


MOVES: tuple[Move, ...] = (jump, jitter, line, block, uniform)
