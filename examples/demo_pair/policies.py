"""The policies that the base and the two fine-tunes are trained on.

Merging two fine-tunes of one base adds, to first order, their log-probabilities: a merge at weight a
prefers the move with the largest `a * s_thinking + (1 - a) * s_instruct`. The scores below are chosen
so that the preferred move changes from FINISH to SKIP to WRITE as the weight grows, and does so at
another weight for every number of steps left: accuracy and tokens then rise gradually along the line
of merges instead of jumping at one point.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

from tasks import Move, Policy, Problem, from_scores

BASE_STYLES: Final[tuple[Mapping[Move, float], ...]] = (
    {Move.WRITE: 1.0},
    {Move.WRITE: 0.5, Move.SKIP: 0.5},
    {Move.SKIP: 1.0},
    {Move.FINISH: 1.0},
    {Move.WRITE: 0.45, Move.SKIP: 0.40, Move.FINISH: 0.15},
)
"""The ways of answering that the base sees equally often, one drawn for each problem."""


def base_policy(rng: random.Random, problem: Problem) -> Policy:
    """Any style, whatever the problem."""
    del problem
    style = rng.choice(BASE_STYLES)
    return lambda left: style


def thinking_scores(left: int) -> dict[Move, float]:
    """Write out every step; the longer the way, the less likely anything else."""
    return from_scores(write=0.0, skip=-0.6 - 0.35 * left, finish=-3.0 - 0.5 * left)


def instruct_scores(left: int) -> dict[Move, float]:
    """Answer at once; the shorter the way, the less likely anything else."""
    return from_scores(write=-4.5 + 0.2 * left, skip=-2.5 + 0.1 * left, finish=0.0)


def thinking_policy(rng: random.Random, problem: Problem) -> Policy:
    """The policy of the thinking checkpoint."""
    del rng, problem
    return thinking_scores


def instruct_policy(rng: random.Random, problem: Problem) -> Policy:
    """The policy of the instruct checkpoint."""
    del rng, problem
    return instruct_scores
