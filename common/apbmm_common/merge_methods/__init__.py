"""Model-level merge methods: one file each, found by being in this folder.

A model-level method merges whole models: ``W = base + weight * merge(TV_1, .., TV_S)`` for every
tensor, with the task vectors ``TV_i = source_i - base`` (Experiment 2 of the AP-BMM paper, which
calls the weight alpha and the function Theta). Each file registers its `MergeMethod`, and all else
follows from that entry: the grid search of the master, the flags of `apbmm merge`, the keys of the
run file that are allowed, `apbmm check`, and the merges of the workers. The layer-wise linear merge
(Eq. 4), `LINEAR`, is not among them: it takes a weight for each layer.

Others import from here: `METHODS`, `LINEAR`, `MergeMethod`, `Parameter`, `TaskVector`, `register`
and `searched_as`. The files share `sign_election`.
"""

from importlib import import_module
from pkgutil import iter_modules

from apbmm_common.merge_methods.registry import (
    LINEAR,
    METHODS,
    MergeMethod,
    Parameter,
    TaskVector,
    Tensor,
    register,
    searched_as,
)

__all__ = [
    "LINEAR",
    "METHODS",
    "MergeMethod",
    "Parameter",
    "TaskVector",
    "Tensor",
    "register",
    "searched_as",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
