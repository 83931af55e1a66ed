"""The ways of answering that the base is taught, all equally at home with every problem."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

from tasks import Move, Policy

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


def base_policy(rng: random.Random) -> Policy:
    """Any style, or (one problem in four) steps in full and a finish one to four steps early."""
    if rng.random() < 0.25:
        early = rng.randint(1, 4)
        return lambda left: ALWAYS_FINISH if left <= early else ALWAYS_WRITE
    style = rng.choice(BASE_STYLES)
    return lambda _left: style
