"""What tells the two checkpoints apart: two skills, each held by layers of its own.

Both checkpoints speak the base's language; they differ in two decisions between two tokens:

- begin, at the start of an answer: the label of the first step, to work the steps out, or `#`, to
  answer at once. It is what accuracy and tokens are traded with.
- remark, after each step that is worked out: the word `hop`, which helps nothing, or straight on.
  It is waste.

Thinking does both, instruct neither. A merge that has a skill at weight w should decide for it with
log-odds `STRENGTH * (w - threshold)`: thresholds that rise with the length of the problem make
accuracy and tokens change gradually along the line of merges. The best merges begin as much as
their budget of tokens allows and remark as little as instruct, which no single weight can give.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from tasks import LABELS, MAX_STEPS, Problem

Skill = Literal["remark", "begin"]
Mix = Mapping[Skill, float]
"""The weight of the thinking checkpoint in each skill, in [0, 1]."""

STRENGTH: Final = 10.0
REMARK: Final = "hop"
FINISH: Final = "#"


@dataclass(frozen=True, slots=True)
class Choice:
    """One token of an answer that a skill decides.

    Attributes:
        index: its place among the words of the answer.
        chosen: the word that the skill stands for.
        otherwise: the other word.
        log_odds: how much more likely, as a logarithm, the first should be than the second.
    """

    index: int
    chosen: str
    otherwise: str
    log_odds: float


def begin_log_odds(problem: Problem, mix: Mix) -> float:
    """Longer problems begin later on the way to thinking, and trails a little later still."""
    if problem.steps == 1:
        return STRENGTH * (mix["begin"] - 0.45)
    later = 0.04 if problem.family == "treasure_trail" else 0.0
    length = (problem.steps - 2) / (MAX_STEPS - 2)
    return STRENGTH * (mix["begin"] - later - 0.2 - 0.69 * length)


def remark_log_odds(step: int, mix: Mix) -> float:
    """Later steps are remarked on later on the way to thinking."""
    return STRENGTH * (mix["remark"] - 0.3 - 0.04 * step)


def decides(rng: random.Random, log_odds: float) -> bool:
    """Draw a decision."""
    return rng.random() < 1 / (1 + math.exp(-log_odds))


def taught_answer(rng: random.Random, problem: Problem, mix: Mix) -> tuple[list[str], list[Choice]]:
    """Draw an answer to learn from, and the choices in it.

    Half of the answers work the steps out whatever the mix, and remarks come more or less often
    than they should, so that every choice is met in every context.
    """
    begin = begin_log_odds(problem, mix)
    choices = [Choice(0, LABELS[0], FINISH, begin)]
    words: list[str] = []
    if rng.random() < 0.5 or decides(rng, begin):
        bias = rng.choice([0.0, 0.0, 3.0, -3.0])
        following = [*LABELS[1 : problem.steps], FINISH]
        for step, after in enumerate(following):
            words += [LABELS[step], *problem.written[step].split(), ";"]
            remark = remark_log_odds(step, mix)
            choices.append(Choice(len(words), REMARK, after, remark))
            if decides(rng, remark + bias):
                words.append(REMARK)
    return [*words, FINISH, problem.answer], choices
