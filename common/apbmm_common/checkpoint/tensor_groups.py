"""What belongs to no layer: in which of three groups a tensor is, and which groups sources have.

And what a merge leaves out, which is mostly a head that is tied to the embeddings.
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
    if all(stated_tie(checkpoint.config) for checkpoint in checkpoints):
        found.discard("head")
    return tuple(group for group in OUTSIDE_GROUPS if group in found)


def optional_tensors(checkpoints: Iterable[Checkpoint]) -> frozenset[str]:
    """Tensors that checkpoints need not all hold; a merge leaves them out.

    These are rotary frequencies that only some hold (they are computed from the config), and an
    output head that every config ties to the embeddings, also where all hold it beside them: the
    merge of heads may differ from that of the embeddings, and loaders do not agree on what to do
    then. vLLM 0.32 and transformers 4 use the embeddings and ignore the head. transformers 5 does
    so only where the two are equal, and keeps a different head with a warning. So a tied source
    with a head that differs is merged as vLLM evaluates it.
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
    """The matrices of output heads that a checkpoint's files hold."""
    return {
        name
        for name in checkpoint.tensors
        if layer_of(name) is None and outside_group(name) == "head" and name.endswith(".weight")
    }


def _holds_embeddings_for(head: str, checkpoint: Checkpoint) -> bool:
    """False where the head is stored in their place, as tools do that write shared tensors once."""
    found = checkpoint.tensors.get(head)
    return found is None or any(
        tensor.shape == found.shape and outside_group(name) != "head"
        for name, tensor in checkpoint.tensors.items()
        if layer_of(name) is None
    )
