"""A kernel over a merge's weights and a few summary statistics of them.

Forty evaluations cannot determine 36 lengthscales. What scores depend on first of all is how much
of each source there is in a merge, and how thoroughly the two are mixed; a stationary kernel over
the layers alone needs all the evaluations to find that out. A `MergeKernel` measures the distance
between two merges over the D weights *and* over these summary statistics:

- the mean of the weights;
- their mean weighted by the layer importance, where that is known;
- the mean of 4 x (1 - x): 0 for a merge that takes each layer from one source, 1 for a merge that
  averages the sources in every layer.

Of S sources a layer has S - 1 numbers, which stand for weights by stick-breaking
(`apbmm_common.simplex`). Distances are then those of the weights of all sources but the last, the
means are those of each of these sources, and the mixing is S / (S - 1) (1 - sum_i w_i^2), which of
two sources is 4 x (1 - x).

A misleading importance does little harm: the fit gives that one statistic a long lengthscale.
"""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.kernels import MaternKernel
from torch import Tensor

from apbmm_master.search.arrays import Array

# Keeps every layer in the weighted mean, and the weights finite.
IMPORTANCE_FLOOR = 0.1
# The root of what a source leaves has no derivative at 0.
LEAST_LEFT = 1e-9


class MergeKernel(MaternKernel):  # type: ignore[misc]
    """ARD Matern-5/2 over the D weights of a merge, followed by its summary statistics.

    `importance` (D,) has the score of each component in [0, 1], or is None; of the `numbers` of one
    layer each weights the mean of its own source. `lengthscale` has D entries for the weights and
    `summary_count` more. Keyword arguments are those of MaternKernel, without `ard_num_dims`.
    """

    def __init__(
        self, dimensions: int, importance: Array | None, numbers: int = 1, **settings: Any
    ) -> None:
        size = dimensions + summary_count(importance, numbers)
        super().__init__(nu=2.5, ard_num_dims=size, **settings)
        self.numbers = numbers
        self.register_buffer("weights", _mean_weights(dimensions, importance, numbers))

    def forward(self, x1: Tensor, x2: Tensor, **options: Any) -> Tensor:
        """The kernel matrix (..., a, b) of merges `x1` (..., a, D) and `x2` (..., b, D)."""
        return super().forward(self.with_summaries(x1), self.with_summaries(x2), **options)

    def with_summaries(self, x: Tensor) -> Tensor:
        """Weights of merges (..., D), with their summary statistics appended."""
        if self.numbers == 1:
            mixing = 4.0 * (x * (1.0 - x)).mean(dim=-1, keepdim=True)
            return torch.cat([x, x @ self.weights[:, 0], mixing], dim=-1)
        weights = source_weights(x, self.numbers)
        last = 1.0 - weights.sum(dim=-1)
        even = (self.numbers + 1) / self.numbers
        mixing = even * (1.0 - weights.square().sum(dim=-1) - last.square())
        means = (weights.unsqueeze(-1) * self.weights).sum(dim=-3)
        parts = [weights.flatten(-2), means.flatten(-2), mixing.mean(dim=-1, keepdim=True)]
        return torch.cat(parts, dim=-1)


def source_weights(x: Tensor, numbers: int) -> Tensor:
    """Of merges (..., D), the weights of all sources but the last in each layer, (..., L, S - 1).

    They are those of `simplex.row_of`, but that what a source leaves is at least a root of
    `LEAST_LEFT`.
    """
    sticks = x.unflatten(-1, (-1, numbers))
    left = torch.ones_like(sticks[..., 0])
    found = []
    for place, rest in enumerate(range(numbers, 0, -1)):
        after = 1.0 - sticks[..., place]
        kept = after if rest == 1 else after.clamp_min(LEAST_LEFT) ** (1.0 / rest)
        found.append(left * (1.0 - kept))
        left = left * kept
    return torch.stack(found, dim=-1)


def summary_count(importance: Array | None, numbers: int = 1) -> int:
    """How many summary statistics a kernel with this importance appends."""
    return (1 if importance is None else 2) * numbers + 1


def _mean_weights(dimensions: int, importance: Array | None, numbers: int) -> Tensor:
    """Weights (L, S - 1, 1 or 2) of the plain mean and of the mean weighted by the importance."""
    columns = [torch.ones(dimensions, dtype=torch.float64)]
    if importance is not None:
        # With the floor, an importance that is 0 everywhere gives the plain mean.
        columns.append(torch.as_tensor(importance) + IMPORTANCE_FLOOR)
    stacked = torch.stack(columns, dim=-1).unflatten(0, (-1, numbers))
    return stacked / stacked.sum(dim=0)
