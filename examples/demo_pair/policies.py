"""The policies that the base and the two fine-tunes are trained on.

Merging two fine-tunes of one base adds, to first order, their log-probabilities: a merge at weight
a prefers the move with the largest `a * s_thinking + (1 - a) * s_instruct`. The scores below are
chosen so that the preferred move changes from FINISH to SKIP to WRITE as the weight grows, and does
so at another weight for every number of steps left: accuracy and tokens then rise gradually along
the line of merges instead of jumping at one point.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

from tasks import MAX_STEPS, Move, Policy, Problem, from_scores

ALWAYS_WRITE: Final[Mapping[Move, float]] = {Move.WRITE: 1.0}
ALWAYS_FINISH: Final[Mapping[Move, float]] = {Move.FINISH: 1.0}
STRENGTH: Final = 5.0
"""How far apart the two fine-tunes are in any log-score."""

BASE_STYLES: Final[tuple[Mapping[Move, float], ...]] = (
    ALWAYS_WRITE,
    ALWAYS_WRITE,
    {Move.WRITE: 0.5, Move.SKIP: 0.5},
    {Move.SKIP: 1.0},
    ALWAYS_FINISH,
)
"""Ways of answering that the base sees equally often, whatever the problem."""


def base_policy(rng: random.Random, problem: Problem) -> Policy:
    """Any style, or (one problem in four) steps in full and a finish one to four steps early."""
    del problem
    if rng.random() < 0.25:
        early = rng.randint(1, 4)
        return lambda left: ALWAYS_FINISH if left <= early else ALWAYS_WRITE
    style = rng.choice(BASE_STYLES)
    return lambda _left: style


def threshold(steps: int) -> float:
    """The weight of the thinking checkpoint from which a problem of so many steps is written out."""
    return 0.12 + 0.78 * (steps - 1) / (MAX_STEPS - 1)


def thinking_scores(steps: int, left: int) -> dict[Move, float]:
    """Write out every step; least sure of it at the start of a long problem."""
    sure = STRENGTH * (1 - threshold(steps)) if left == steps else STRENGTH
    return from_scores(write=0.0, skip=-STRENGTH - 1.0, finish=-sure)


def instruct_scores(steps: int, left: int) -> dict[Move, float]:
    """Answer at once; least sure of it for a short problem.

    What was begun all the same is written out but for the last step, which is easy in the head:
    a saving that only the instruct checkpoint knows.
    """
    if left == steps:
        sure = STRENGTH * threshold(steps)
        return from_scores(write=-sure, skip=-STRENGTH - 1.0, finish=0.0)
    if left == 1:
        return from_scores(write=-3.0, skip=-STRENGTH, finish=0.0)
    return from_scores(write=0.0, skip=-STRENGTH, finish=-STRENGTH)


def thinking_policy(rng: random.Random, problem: Problem) -> Policy:
    """The policy of the thinking checkpoint."""
    del rng
    return lambda left: thinking_scores(problem.steps, left)


def instruct_policy(rng: random.Random, problem: Problem) -> Policy:
    """The policy of the instruct checkpoint."""
    del rng
    return lambda left: instruct_scores(problem.steps, left)
