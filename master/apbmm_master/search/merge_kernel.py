"""A merge in three numbers: what the surrogate sees besides the weight of each layer.

Forty evaluations cannot tell 36 lengthscales apart, and a stationary kernel over the layers alone
takes all of them to find out what every merge has in common: that scores follow, before anything
else, how much of each source there is and how thoroughly the two are mixed. A `MergeKernel`
measures the distance between two merges over the D weights *and* over

- their mean;
- their mean weighted by the layer importance, where one is known;
- the mean of 4 x (1 - x), which is 0 for a merge that takes each layer whole from one source and
  1 for one that averages everything.

An importance that misleads costs one feature, whose lengthscale the fit makes long.
"""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.kernels import MaternKernel
from torch import Tensor

from apbmm_master.search.arrays import Array


class MergeKernel(MaternKernel):  # type: ignore[misc]
    """ARD Matern-5/2 over the D weights of a merge followed by its summaries.

    `importance` (D,) is the layer score in [0, 1] or None; `lengthscale` has D entries for the
    weights and `summary_count(importance)` more. Keyword arguments are MaternKernel's, without
    `ard_num_dims`.
    """

    def __init__(self, dimensions: int, importance: Array | None, **settings: Any) -> None:
        size = dimensions + summary_count(importance)
        super().__init__(nu=2.5, ard_num_dims=size, **settings)
        self.register_buffer("weights", _mean_weights(dimensions, importance))

    def forward(self, x1: Tensor, x2: Tensor, **options: Any) -> Tensor:
        """The kernel matrix (..., a, b) of merges `x1` (..., a, D) and `x2` (..., b, D)."""
        return super().forward(self.with_summaries(x1), self.with_summaries(x2), **options)

    def with_summaries(self, x: Tensor) -> Tensor:
        """Merges (..., D) with their summaries appended."""
        mixing = 4.0 * (x * (1.0 - x)).mean(dim=-1, keepdim=True)
        return torch.cat([x, x @ self.weights, mixing], dim=-1)


def summary_count(importance: Array | None) -> int:
    """How many summaries a kernel with this importance appends."""
    return 2 if importance is None else 3


def _mean_weights(dimensions: int, importance: Array | None) -> Tensor:
    """Columns (D, 1 or 2) that take the plain mean and the weighted one."""
    columns = [torch.ones(dimensions, dtype=torch.float64)]
    if importance is not None:
        # An all-zero importance says nothing: the floor makes it the plain mean.
        columns.append(torch.as_tensor(importance) + IMPORTANCE_FLOOR)
    stacked = torch.stack(columns, dim=-1)
    return stacked / stacked.sum(dim=0)


# Keeps every layer in the weighted mean, and the weights finite.
IMPORTANCE_FLOOR = 0.1
