"""What belongs to no layer: in which of three groups a tensor is, and which groups sources have."""

from __future__ import annotations

import re
from collections.abc import Sequence

from apbmm_common.checkpoint import Checkpoint, layer_of
from apbmm_common.compatibility import is_tied, optional_tensors

OUTSIDE_GROUPS = ("embeddings", "norm", "head")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)\.")
_EMBEDDINGS = re.compile(r"(^|\.)(embed_\w+|\w+_embeddings?|wte|wpe)\.")


def outside_group(tensor_name: str) -> str:
    """Which of `OUTSIDE_GROUPS` a tensor of no layer is in; what is neither other is ``norm``."""
    if _HEAD.search(tensor_name):
        return "head"
    return "embeddings" if _EMBEDDINGS.search(tensor_name) else "norm"


def outside_groups(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """The groups that a merge of these checkpoints has floating-point tensors in.

    A head that every config ties to the embeddings is none: loaders use the embeddings for it,
    even where the files hold it, too.
    """
    left_out = optional_tensors(checkpoints)
    found = {
        outside_group(name)
        for name, tensor in checkpoints[-1].tensors.items()
        if tensor.is_float and name not in left_out and layer_of(name) is None
    }
    if all(is_tied(checkpoint.config) for checkpoint in checkpoints):
        found.discard("head")
    return tuple(group for group in OUTSIDE_GROUPS if group in found)
