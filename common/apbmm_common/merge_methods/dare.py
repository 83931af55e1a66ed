"""DARE: elements dropped at random, and what stays scaled up.

What stays is scaled so that the L1 norm of each tensor's task vector is kept, as in mergekit; the
paper scales by one over the density.
"""

from __future__ import annotations

from collections.abc import Sequence

from apbmm_common.merge_methods.density import DENSITY
from apbmm_common.merge_methods.registry import MergeMethod, TaskVector, Tensor, register
from apbmm_common.merge_methods.sign_election import agreeing_sum, total

CITATION = "Yu et al. (2024), Language Models are Super Mario, arXiv 2311.03099"


def dare(task_vectors: Sequence[TaskVector], *, density: float) -> Tensor:
    """Drop and rescale, then add."""
    return total([task_vector.at_random(density) for task_vector in task_vectors])


def dare_ties(task_vectors: Sequence[TaskVector], *, density: float) -> Tensor:
    """Drop and rescale, then elect signs and add what agrees."""
    return agreeing_sum([task_vector.at_random(density) for task_vector in task_vectors])


register(MergeMethod("dare", CITATION, dare, (DENSITY,), random=True))
register(MergeMethod("dare_ties", CITATION, dare_ties, (DENSITY,), random=True))
