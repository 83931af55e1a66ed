"""What the base and the fine-tunes are taught: policies, and two skills that tell them apart.

Merging two fine-tunes of one base adds, to first order, their log-probabilities: a merge at weight
a prefers the move with the largest `a * s_thinking + (1 - a) * s_instruct`. The scores below put
the change from one move to the other at another weight for every number of steps, so that accuracy
and tokens change gradually along the line of merges instead of jumping at one point.

The two checkpoints differ in two skills. Each is trained alone, from the base, in layers of its
own, so that a search over layer weights has something to find that no single weight can give:

- begin: whether to write steps at all. Thinking does, instruct answers at once. It is what accuracy
  and tokens are traded with.
- stop: whether to leave the last step unwritten, which is easy in the head. Instruct does, thinking
  does not, which wastes five tokens.

The best merges take stop from the instruct checkpoint, and anything from both for begin.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from tasks import MAX_STEPS, Move, Policy, Problem, from_scores

Side = Literal["thinking", "instruct"]
"""One of the two checkpoints."""

ALWAYS_WRITE: Final[Mapping[Move, float]] = {Move.WRITE: 1.0}
ALWAYS_FINISH: Final[Mapping[Move, float]] = {Move.FINISH: 1.0}
BASE_STYLES: Final[tuple[Mapping[Move, float], ...]] = (
    ALWAYS_WRITE,
    ALWAYS_WRITE,
    {Move.WRITE: 0.5, Move.SKIP: 0.5},
    {Move.SKIP: 1.0},
    ALWAYS_FINISH,
)
"""Ways of answering that the base sees equally often, whatever the problem."""

NEUTRAL_BEGIN: Final[Mapping[Move, float]] = {Move.WRITE: 0.6, Move.SKIP: 0.23, Move.FINISH: 0.17}
NEUTRAL_LATER: Final[Mapping[Move, float]] = {Move.WRITE: 0.72, Move.SKIP: 0.13, Move.FINISH: 0.15}
"""About what the base does, for the choices that a skill leaves as they are."""


Lesson = Callable[[random.Random, Problem], Policy]
"""Gives the policy that one training answer follows."""


def base_policy(rng: random.Random, problem: Problem) -> Policy:
    """Any style, or (one problem in four) steps in full and a finish one to four steps early."""
    del problem
    if rng.random() < 0.25:
        early = rng.randint(1, 4)
        return lambda left: ALWAYS_FINISH if left <= early else ALWAYS_WRITE
    style = rng.choice(BASE_STYLES)
    return lambda _left: style


@dataclass(frozen=True, slots=True)
class Skill:
    """One difference between the two checkpoints: WRITE or FINISH at certain choices.

    Attributes:
        applies: whether the skill decides the choice of a problem with so many steps left.
        threshold: the weight of the thinking checkpoint from which WRITE should win there.
        strength: how far apart the two checkpoints' log-scores are.
    """

    applies: Callable[[Problem, int], bool]
    threshold: Callable[[Problem, int], float]
    strength: float

    def lesson(self, side: Side) -> Lesson:
        """What one checkpoint is taught of this skill."""

        def moves(problem: Problem, left: int) -> Mapping[Move, float]:
            if not self.applies(problem, left):
                return NEUTRAL_BEGIN if left == problem.steps else NEUTRAL_LATER
            threshold = self.threshold(problem, left)
            margin = self.strength * (1 - threshold if side == "thinking" else -threshold)
            return from_scores(write=margin, skip=-5.0, finish=0.0)

        return lambda _rng, problem: lambda left: moves(problem, left)


def begin_threshold(problem: Problem, left: int) -> float:
    """Rises with the number of steps; trails come a little later than arithmetic."""
    del left
    if problem.steps == 1:
        return 0.45
    later = 0.04 if problem.family == "treasure_trail" else 0.0
    return min(0.97, 0.32 + later + 0.65 * (problem.steps - 2) / (MAX_STEPS - 2))


SKILLS: Final[Mapping[str, Skill]] = {
    "begin": Skill(
        applies=lambda problem, left: left == problem.steps,
        threshold=begin_threshold,
        strength=5.0,
    ),
    "stop": Skill(
        applies=lambda problem, left: left == 1 < problem.steps,
        threshold=lambda _problem, _left: 0.45,
        strength=7.0,
    ),
}
"""The skills in the order of the layers that hold them."""
