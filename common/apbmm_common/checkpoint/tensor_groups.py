"""The tensors outside the layers, in three groups, and the tensors that a merge leaves out.

A tensor that is left out is mostly an output head that is tied to the embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apbmm_common.checkpoint.headers import Checkpoint, layer_of, text_config

OUTSIDE_GROUPS = ("embeddings", "norm", "head")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)\.")
_EMBEDDINGS = re.compile(r"(^|\.)(embed_\w+|\w+_embeddings?|wte|wpe)\.")


def outside_group(tensor_name: str) -> str:
    """The group of `OUTSIDE_GROUPS` that a tensor outside the layers is in.

    A tensor that belongs neither to the head nor to the embeddings counts as ``norm``.
    """
    if _HEAD.search(tensor_name):
        return "head"
    return "embeddings" if _EMBEDDINGS.search(tensor_name) else "norm"


def outside_groups(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """The groups that a merge of these checkpoints has floating-point tensors in.

    A head that every config ties to the embeddings is not among them: loaders use the embeddings
    in its place, even where the files hold the head too.
    """
    left_out = optional_tensors(checkpoints)
    found = {
        outside_group(name)
        for name, tensor in checkpoints[-1].tensors.items()
        if tensor.is_float and name not in left_out and layer_of(name) is None
    }
    if all(stated_tie(checkpoint.config) for checkpoint in checkpoints):
        found.discard("head")
    return tuple(group for group in OUTSIDE_GROUPS if group in found)


def optional_tensors(checkpoints: Iterable[Checkpoint]) -> frozenset[str]:
    """Tensors that not all checkpoints need to hold; a merge leaves them out.

    These are:

    - rotary frequencies that only some checkpoints hold: loaders compute them from the config;
    - an output head that every config ties to the embeddings, even where all files hold it. The
      merged head may differ from the merged embeddings, and loaders treat that case differently:
      vLLM 0.32 and transformers 4 use the embeddings and ignore the head; transformers 5 keeps a
      head that differs, with a warning. Leaving the head out gives what vLLM evaluates.
    """
    checkpoints = list(checkpoints)
    names = [set(checkpoint.tensors) for checkpoint in checkpoints]
    everywhere = names[0].intersection(*names) if names else set()
    somewhere = everywhere.union(*names) - everywhere
    left_out = {name for name in somewhere if name.endswith("rotary_emb.inv_freq")}
    if all(stated_tie(checkpoint.config) for checkpoint in checkpoints):
        left_out |= {
            head
            for head in set[str]().union(*map(heads, checkpoints))
            if all(_holds_embeddings_for(head, checkpoint) for checkpoint in checkpoints)
        }
    return frozenset(left_out)


def stated_tie(config: Mapping[str, Any]) -> bool | None:
    """Whether a config says that the output head is the embeddings; None if it does not say."""
    tied = config.get("tie_word_embeddings", text_config(config).get("tie_word_embeddings"))
    return None if tied is None else tied is True


def heads(checkpoint: Checkpoint) -> set[str]:
    """The names of the output head's matrices in a checkpoint's files."""
    return {
        name
        for name in checkpoint.tensors
        if layer_of(name) is None and outside_group(name) == "head" and name.endswith(".weight")
    }


def _holds_embeddings_for(head: str, checkpoint: Checkpoint) -> bool:
    """Whether embeddings of the head's shape are in the files beside it, or the head is not.

    False where only the head is stored, as by tools that write shared tensors once.
    """
    found = checkpoint.tensors.get(head)
    return found is None or any(
        tensor.shape == found.shape and outside_group(name) != "head"
        for name, tensor in checkpoint.tensors.items()
        if layer_of(name) is None
    )
