"""Boxes above many fronts of three or more objectives, all fronts at once.

The space above a front, and above the reference point, is cut into disjoint boxes by the two steps
that BoTorch's `FastNondominatedPartitioning` takes (Yang et al., 2019): local bounds of the front
(Lacour et al., 2017, Alg. 1), then the bounds of these. BoTorch does this for one front after
another; here the bounds of all fronts are rows of one tensor. Bounds are of a minimisation.

Shapes: S fronts, n points, m objectives, T rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

Bounds = tuple[Tensor, Tensor, Tensor]
"""Upper bounds (T, m), the points (T, m, m) that define each, and the front (T,) of each."""
REPLACED = -torch.inf
"""Stands for a bound in whose place there are others; no point is below it."""


def cells_above(fronts: Tensor, on_front: Tensor, reference_point: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper corners (S, C, m) of boxes that fill the space above each front.

    `fronts` (S, n, m) are to be maximised; of each, the points `on_front` (S, n) count, which are
    above `reference_point` and dominate none another. Fewer boxes are padded with empty ones.
    """
    count, _, size = fronts.shape
    infinite = torch.full_like(reference_point, float("inf"))
    left_out = torch.where(on_front.unsqueeze(-1), -fronts, infinite)
    first = _bounds(left_out, -reference_point, -infinite)
    local = packed(-first[0], first[2], count, infinite)
    upper, defining, owner = _bounds(local, infinite, reference_point)
    lower = torch.stack([defining[:, : max(j, 1), j].amax(dim=1) for j in range(size)], dim=-1)
    upper = torch.cat([torch.full_like(upper[:, :1], float("inf")), upper[:, 1:]], dim=-1)
    filled = (upper > lower).all(dim=-1)
    corners = (lower[filled], upper[filled])
    below, above = (packed(rows, owner[filled], count, reference_point) for rows in corners)
    return below, above


def _bounds(points: Tensor, upper: Tensor, ideal: Tensor) -> Bounds:
    """The local upper bounds of the points (S, n, m) of each front, below `upper` and over `ideal`.

    A point that is infinite is none.
    """
    count, number, size = points.shape
    bounds = upper.repeat(count, 1)
    defining = ideal.repeat(count, size, 1)
    defining[:, range(size), range(size)] = upper
    owner, used = torch.arange(count), count
    for index in range(number):
        point = points[owner[:used], index]
        hit = (bounds[:used] > point).all(dim=-1).nonzero()[:, 0]
        old = bounds[hit], defining[hit], owner[hit], point[hit]
        moved = [_moved(*old, j) for j in range(size)]
        new = [torch.cat(parts) for parts in zip(*moved, strict=True)]
        # New rows follow the others, which stay in their places: copying all would take the time.
        bounds[hit] = REPLACED
        more = len(new[0])
        if used + more > len(owner):
            left = bounds[:used, 0] > REPLACED
            kept = [rows[:used][left] for rows in (bounds, defining, owner)]
            used = len(kept[0])
            bounds, defining, owner = (
                torch.cat([rows, rows.new_empty(used + more, *rows.shape[1:])]) for rows in kept
            )
        places = slice(used, used + more)
        bounds[places], defining[places], owner[places] = new
        used += more
    left = bounds[:used, 0] > REPLACED
    return bounds[:used][left], defining[:used][left], owner[:used][left]


def _moved(bounds: Tensor, defining: Tensor, owner: Tensor, point: Tensor, j: int) -> Bounds:
    """Bounds that a point lowers in objective `j`, where the point defines them from then on."""
    others = [k for k in range(point.shape[-1]) if k != j]
    new = point[:, j] >= defining[:, others, j].amax(dim=-1)
    lowered, defined = bounds[new].clone(), defining[new].clone()
    lowered[:, j] = point[new, j]
    defined[:, j] = point[new]
    return lowered, defined, owner[new]


def packed(rows: Tensor, owner: Tensor, count: int, padding: Tensor) -> Tensor:
    """Rows (T, m) by their `owner` (T,): (`count`, most, m), the rest `padding` (m,)."""
    order = owner.argsort(stable=True)
    owner = owner[order]
    sizes = torch.bincount(owner, minlength=count)
    place = torch.arange(len(owner)) - (sizes.cumsum(0) - sizes)[owner]
    found = padding.expand(count, int(sizes.max()), -1).clone()
    found[owner, place] = rows[order]
    return found
