"""Reranking of the candidate pool (Eq. 27-32): gap reward, proximity penalty, greedy choice.

Shapes: M candidates in D dimensions with m objectives, F points on the current front, A points to
avoid. Objectives are maximised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apbmm_master.search.arrays import Array, Indices
from apbmm_master.search.pareto import front

DECAY = -4.0  # k of Eq. 30


@dataclass(frozen=True)
class Reranking:
    """The chosen candidates, and the scores that decided.

    `chosen` are indices into the pool, in the order of choice. Each row of `scores` (chosen, M) is
    J of Eq. 31 for the whole pool at one choice, minus infinity for candidates chosen before.
    """

    chosen: Indices
    scores: Array


def rerank(
    candidates: Array,
    acquisition: Array,
    predicted: Array,
    observed: Array,
    avoid: Array,
    count: int,
    *,
    gap_weight: float = 0.25,
    proximity_weight: float = 0.15,
) -> Reranking:
    """Choose `count` of the pool greedily by J (Eq. 31, 32).

    `candidates` (M, D) have the log acquisition values `acquisition` (M,) and the posterior means
    `predicted` (M, m). `observed` (n, m) are the objectives of the completed evaluations, `avoid`
    (A, D) the pending vectors. Each term is rescaled over the pool, and the proximity term is
    computed again after each choice. Ties go to the lower index.
    """
    value = min_max(acquisition)
    gap = min_max(gap_reward(predicted, observed[front(observed)]))
    chosen: list[int] = []
    scores = []
    for _ in range(min(count, len(candidates))):
        near = min_max(proximity_penalty(candidates, np.concatenate([avoid, candidates[chosen]])))
        score = value + gap_weight * gap - proximity_weight * near
        score[chosen] = -np.inf
        scores.append(score)
        chosen.append(int(np.argmax(score)))
    return Reranking(np.array(chosen, dtype=np.intp), np.array(scores).reshape(-1, len(candidates)))


def gap_reward(predicted: Array, points: Array) -> Array:
    """r_gap (M,) of Eq. 27-29 for predicted objectives (M, m), given the front (F, m).

    Zero when the front has fewer than two points or no extent.
    """
    if len(points) < 2:
        return np.zeros(len(predicted))
    first, second = _adjacent(points)
    middles = 0.5 * (points[first] + points[second])
    widths = np.linalg.norm(points[second] - points[first], axis=1)
    spread = np.linalg.norm(points.max(axis=0) - points.min(axis=0)) / (len(points) - 1)
    if widths.max() == 0.0 or spread == 0.0:
        return np.zeros(len(predicted))
    squared = ((predicted[:, None, :] - middles[None, :, :]) ** 2).sum(axis=-1)
    rewards = np.exp(-squared / (2.0 * spread**2)) * (widths / widths.max())
    return np.asarray(rewards.max(axis=1), dtype=np.float64)


def _adjacent(points: Array) -> tuple[Indices, Indices]:
    """The neighbouring pairs of a front, as two arrays of indices.

    With two objectives they are consecutive points by the first objective, as in the paper. With
    more objectives a front has no order. Neighbours are then the edges of the Gabriel graph: pairs
    whose midpoint is closer to the two points than to any other point of the front, so that there
    is a gap between them.
    """
    if points.shape[1] == 2:
        order = np.argsort(points[:, 0], kind="stable")
        return order[:-1], order[1:]
    first, second = np.triu_indices(len(points), k=1)
    middles = 0.5 * (points[first] + points[second])
    radius = 0.25 * ((points[first] - points[second]) ** 2).sum(axis=1)
    squared = ((middles[:, None, :] - points[None, :, :]) ** 2).sum(axis=-1)
    empty = (squared >= radius[:, None] * (1.0 - 1e-9)).all(axis=1)
    return first[empty], second[empty]


def proximity_penalty(candidates: Array, avoid: Array) -> Array:
    """p_prox (M,) of Eq. 30: exp(-4 x distance to the nearest of `avoid`); 0 when there is none."""
    if not len(avoid):
        return np.zeros(len(candidates))
    distances = np.linalg.norm(candidates[:, None, :] - avoid[None, :, :], axis=-1)
    return np.asarray(np.exp(DECAY * distances.min(axis=1)), dtype=np.float64)


def min_max(values: Array) -> Array:
    """Min-max rescaling to [0, 1]; a constant array gives 0."""
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
