"""Points in a coordinate system, as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEAST_HEIGHT = 5
"""Lines below which a plot says nothing."""
LEAST_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Mark:
    """A point and the character that stands for it. Of two in one place the later one is seen."""

    x: float
    y: float
    character: str


@dataclass(frozen=True, slots=True)
class Axis:
    """The name of an axis and how its numbers are written."""

    name: str
    text: Callable[[float], str]


def scatter(
    marks: Sequence[Mark], x: Axis, y: Axis, width: int, height: int, *, ascii_only: bool = False
) -> list[str]:
    """A plot of exactly ``height`` lines of at most ``width`` characters.

    Empty without points, and where there is less room than `LEAST_WIDTH` and `LEAST_HEIGHT`.
    """
    if not marks or width < LEAST_WIDTH or height < LEAST_HEIGHT:
        return []
    low_x, high_x = _range([mark.x for mark in marks])
    low_y, high_y = _range([mark.y for mark in marks])
    top, bottom = y.text(high_y), y.text(low_y)
    margin = max(len(top), len(bottom))
    columns, rows = width - margin - 2, height - 3
    grid = [[" "] * columns for _ in range(rows)]
    for mark in marks:
        column = _place(mark.x, low_x, high_x, columns)
        row = rows - 1 - _place(mark.y, low_y, high_y, rows)
        grid[row][column] = mark.character
    side, corner, line = ("|", "+", "-") if ascii_only else ("│", "└", "─")
    labels = {0: top, rows - 1: bottom}
    drawn = [
        f"{labels.get(number, ''):>{margin}} {side}{''.join(cells)}".rstrip()
        for number, cells in enumerate(grid)
    ]
    left, right = x.text(low_x), f"{x.text(high_x)} {x.name}"
    gap = " " * max(1, columns - len(left) - len(right))
    return [
        f"{'':>{margin}} {y.name}"[:width],
        *drawn,
        f"{'':>{margin}} {corner}{line * columns}",
        f"{'':>{margin}}  {left}{gap}{right}"[:width],
    ]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest value; apart by a little where all are the same."""
    low, high = min(values), max(values)
    if high > low:
        return low, high
    apart = abs(low) * 0.1 or 0.1
    return low - apart, high + apart


def _place(value: float, low: float, high: float, cells: int) -> int:
    """The cell of a value between ``low`` and ``high``."""
    return round((value - low) / (high - low) * (cells - 1))
