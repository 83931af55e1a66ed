"""The tensors outside the layers, in three groups, and the tensors that a merge leaves out.

A tensor that is left out is mostly an output head that is tied to the embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apbmm_common.checkpoint.headers import (
    Checkpoint,
    layer_of,
    prediction_tensors,
    text_config,
    tower_tensors,
)

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

    A head that every config ties to the embeddings is not among them, even where the files hold
    it too. Neither are `headers.tower_tensors`, which have no weights.
    """
    left_out = optional_tensors(checkpoints) | tower_tensors(checkpoints[-1])
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

    - the layers for multi-token prediction (`headers.prediction_tensors`);
    - rotary frequencies that only some checkpoints hold: loaders compute them from the config;
    - an output head that every config ties to the embeddings, even where all files hold it: the
      embeddings are used in its place. `compatibility` refuses a head that differs from them,
      because vLLM and transformers 5 would use that head.
    """
    checkpoints = list(checkpoints)
    names = [set(checkpoint.tensors) for checkpoint in checkpoints]
    everywhere = names[0].intersection(*names) if names else set()
    somewhere = everywhere.union(*names) - everywhere
    left_out = {name for name in somewhere if name.endswith("rotary_emb.inv_freq")}
    left_out = left_out.union(*map(prediction_tensors, checkpoints))
    if all(stated_tie(checkpoint.config) for checkpoint in checkpoints):
        left_out |= {
            head
            for head in set[str]().union(*map(heads, checkpoints))
            if all(
                head in heads_beside_embeddings(checkpoint) or head not in checkpoint.tensors
                for checkpoint in checkpoints
            )
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
        for name in _language_tensors(checkpoint)
        if layer_of(name) is None and outside_group(name) == "head" and name.endswith(".weight")
    }


def heads_beside_embeddings(checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
    """Heads whose files also hold tensors that may be their embeddings: the names of those.

    Embeddings have the shape of the head. A head that is stored in their place, as by tools that
    write shared tensors once, is not among the keys.
    """
    tensors = checkpoint.tensors
    found = {
        head: tuple(
            name
            for name in _language_tensors(checkpoint)
            if tensors[name].shape == tensors[head].shape
            and layer_of(name) is None
            and outside_group(name) != "head"
        )
        for head in heads(checkpoint)
    }
    return {head: embeddings for head, embeddings in found.items() if embeddings}


def _language_tensors(checkpoint: Checkpoint) -> list[str]:
    towers = tower_tensors(checkpoint)
    return [name for name in checkpoint.tensors if name not in towers]
