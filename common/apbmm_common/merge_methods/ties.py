"""TIES: the largest elements of each task vector, averaged where they agree in sign.

The largest elements are chosen in each tensor by itself, as in mergekit; the paper chooses them
in the task vector of the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence

from apbmm_common.merge_methods.density import DENSITY
from apbmm_common.merge_methods.registry import MergeMethod, TaskVector, Tensor, register
from apbmm_common.merge_methods.sign_election import agreeing_mean


def ties(task_vectors: Sequence[TaskVector], *, density: float) -> Tensor:
    """Trim each task vector to its largest elements (at least one), elect signs, average."""
    return agreeing_mean(
        [
            task_vector.by_magnitude(0, max(1, int(density * task_vector.elements)))
            for task_vector in task_vectors
        ]
    )


register(
    MergeMethod(
        name="ties",
        citation="Yadav et al. (2023), TIES-Merging, arXiv 2306.01708",
        merge=ties,
        parameters=(DENSITY,),
    )
)
