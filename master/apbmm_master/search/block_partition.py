"""Where to cut layers into blocks, by how much the sources differ in each layer.

The first version of the paper (BAMBO) cuts the layers by dynamic programming, such that the layers
of a block are alike and the information is spread evenly over the blocks. Its formulas are not at
hand, so this is a reconstruction. Of a profile c (L,), which says how much the sources differ in
each layer, cut into B blocks, it minimises the sum of two numbers that are 0 at best:

- how unlike the layers of a block are: the share of the variance of c that is within blocks;
- how unevenly the information is spread: the squared coefficient of variation of the blocks' sums
  of c.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from apbmm_master.search.arrays import as_vector
from apbmm_master.search.errors import SettingError


def block_borders(profile: npt.ArrayLike, blocks: int) -> tuple[int, ...]:
    """Where all blocks but the first begin, as positions in `profile` (L,), which is not negative.

    Of equally good partitions that with the earliest last border. Takes O(L^2 B) steps. Raises
    SettingError unless 1 <= `blocks` <= L.
    """
    values = as_vector(profile, "profile")
    size = len(values)
    if not 1 <= blocks <= size:
        raise SettingError(f"{size} layers cannot be cut into {blocks} blocks")
    costs = _costs(values, blocks)
    best = costs[0].copy()
    """Of the first layers up to each, in as many blocks as there are rounds."""
    begins = []
    for number in range(1, blocks):
        # (end, begin of the last block): the block before has at least one layer for each block.
        totals = np.full((size, size), np.inf)
        for begin in range(number, size):
            totals[begin:, begin] = best[begin - 1] + costs[begin, begin:]
        begins.append(totals.argmin(axis=1))
        best = totals.min(axis=1)
    end, found = size - 1, []
    for choice in reversed(begins):
        found.append(int(choice[end]))
        end = found[-1] - 1
    return tuple(reversed(found))


def _costs(values: npt.NDArray[np.float64], blocks: int) -> npt.NDArray[np.float64]:
    """What a block from layer i to j, both included, adds (L, L); infinite for j < i."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    squares = np.concatenate([[0.0], np.cumsum(values**2)])
    first, last = np.indices((len(values), len(values)))
    counts = last - first + 1
    inside = sums[last + 1] - sums[first]
    with np.errstate(divide="ignore", invalid="ignore"):
        within = squares[last + 1] - squares[first] - inside**2 / counts
        variance = squares[-1] - sums[-1] ** 2 / len(values)
        alike = within / variance if variance > 0.0 else np.zeros_like(within)
        mean = sums[-1] / blocks
        even = (inside / mean - 1.0) ** 2 / blocks if mean > 0.0 else np.zeros_like(within)
    return np.where(counts > 0, alike + even, np.inf)
