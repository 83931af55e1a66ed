"""Task arithmetic: the sum of the task vectors."""

from apbmm_common.merge_methods.registry import MergeMethod, register

register(
    MergeMethod(
        name="task_arithmetic",
        citation="Ilharco et al. (2022), Editing Models with Task Arithmetic, arXiv 2212.04089",
        merge=None,
        search="ta",
        grid_weights=80,
    )
)
