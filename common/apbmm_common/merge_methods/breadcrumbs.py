"""Model Breadcrumbs: neither the largest nor the smallest elements of each tensor."""

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
from apbmm_common.merge_methods.sign_election import agreeing_sum, total

CITATION = "Davari and Belilovsky (2024), Model Breadcrumbs, arXiv 2312.06795"
GAMMA = Parameter(
    "gamma", "share of the largest elements that is dropped", default=0.01, without_high=True
)


def breadcrumbs(task_vectors: Sequence[TaskVector], *, density: float, gamma: float) -> Tensor:
    """Mask each task vector, then add."""
    return total([_masked(task_vector, density, gamma) for task_vector in task_vectors])


def breadcrumbs_ties(task_vectors: Sequence[TaskVector], *, density: float, gamma: float) -> Tensor:
    """Mask each task vector, then elect signs and add what agrees."""
    return agreeing_sum([_masked(task_vector, density, gamma) for task_vector in task_vectors])


def _masked(task_vector: TaskVector, density: float, gamma: float) -> Tensor:
    """Without the largest and the smallest elements.

    Fewer of the largest are dropped where the density could not be kept otherwise.
    """
    kept = int(density * task_vector.elements)
    dropped = min(int(gamma * task_vector.elements), task_vector.elements - kept)
    return task_vector.by_magnitude(dropped, kept)


register(MergeMethod("breadcrumbs", CITATION, breadcrumbs, (DENSITY, GAMMA)))
register(MergeMethod("breadcrumbs_ties", CITATION, breadcrumbs_ties, (DENSITY, GAMMA)))
