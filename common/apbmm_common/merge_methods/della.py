"""DELLA: elements dropped at random, small ones more often than large ones.

What stays is scaled so that the L1 norm of each tensor's task vector is kept, and epsilon is half
the range of the chances of staying, both as in mergekit; the paper divides each element by its
own chance, and its epsilon is the whole range.
"""

from __future__ import annotations

from collections.abc import Sequence

from apbmm_common.merge_methods.density import DENSITY
from apbmm_common.merge_methods.registry import (
    MergeMethod,
    Parameter,
    TaskVector,
    Tensor,
    register,
)
from apbmm_common.merge_methods.sign_election import agreeing_mean, total

CITATION = "Deep et al. (2024), DELLA-Merging, arXiv 2406.11617"
EPSILON = Parameter(
    "epsilon", "how far an element's chance of staying may lie from the density", default=0.15
)


def della(task_vectors: Sequence[TaskVector], *, density: float, epsilon: float) -> Tensor:
    """Drop by magnitude and rescale, then elect signs and average what agrees."""
    return agreeing_mean([_dropped(vector, density, epsilon) for vector in task_vectors])


def della_linear(task_vectors: Sequence[TaskVector], *, density: float, epsilon: float) -> Tensor:
    """Drop by magnitude and rescale, then add."""
    return total([_dropped(vector, density, epsilon) for vector in task_vectors])


def _dropped(task_vector: TaskVector, density: float, epsilon: float) -> Tensor:
    spread = min(epsilon, density, 1.0 - density)  # chances are within [0, 1]
    return task_vector.at_random_by_rank(density, spread)


register(MergeMethod("della", CITATION, della, (DENSITY, EPSILON), random=True))
register(MergeMethod("della_linear", CITATION, della_linear, (DENSITY, EPSILON), random=True))
