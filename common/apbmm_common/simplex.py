"""Weights of several sources that sum to 1, as numbers of a box and back (stick-breaking); pure.

S sources take S - 1 numbers in [0, 1]. The first source takes a share of the stick, the next a
share of the rest, and so on; the last source, the anchor, gets what is left. Zeros are the anchor,
v_1 = 1 is the first source, and of two sources the first gets v itself. v_k stands for the share
1 - (1 - v_k)^(1 / (S - k)), so that numbers drawn uniformly give points that are uniform on the
simplex (with v_k itself as the share, the last sources would get little).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = tuple[float, ...]
"""One weight for each source."""


def row_of(numbers: Sequence[float]) -> Row:
    """The weights (S,) that S - 1 numbers in [0, 1] stand for."""
    left, row = 1.0, []
    for rest, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        share = number if rest == 1 else 1.0 - (1.0 - number) ** (1.0 / rest)
        row.append(left * share)
        left *= 1.0 - share
    return (*row, left)


def numbers_of(row: Sequence[float]) -> tuple[float, ...]:
    """The S - 1 numbers in [0, 1] of weights (S,) that sum to 1; 0 where nothing is left to share.

    `row_of` gives the weights back, to rounding.
    """
    left, numbers = math.fsum(row), []
    for rest, weight in zip(range(len(row) - 1, 0, -1), row, strict=False):
        share = min(max(weight / left, 0.0), 1.0) if left > 0.0 else 0.0
        numbers.append(share if rest == 1 else 1.0 - (1.0 - share) ** rest)
        left -= weight
    return tuple(numbers)


def one_hot(source: int, sources: int) -> Row:
    """The weights of one source alone, by its position."""
    return tuple(float(index == source) for index in range(sources))
