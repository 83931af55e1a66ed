"""Nearswap: each element moves towards the source, but by no more than a threshold.

This file is CONTRIBUTING's example of a merge method. A method of the project is such a file in
``common/apbmm_common/merge_methods/``; nothing else has to be changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from apbmm_common.merge_methods.registry import (
    MergeMethod,
    Parameter,
    TaskVector,
    Tensor,
    register,
)
from apbmm_common.merge_methods.sign_election import total

THRESHOLD = Parameter(
    "threshold", "the most that one element moves", default=0.01, grid=(0.01, 0.001)
)


def nearswap(task_vectors: Sequence[TaskVector], *, threshold: float) -> Tensor:
    """Clip every element to at most ``threshold``, then add the task vectors."""
    return total([task_vector.values.clamp(-threshold, threshold) for task_vector in task_vectors])


METHOD = register(
    MergeMethod(
        name="nearswap",
        citation="Goddard et al. (2024), mergekit, arXiv 2403.13257",
        merge=nearswap,
        parameters=(THRESHOLD,),
    )
)
