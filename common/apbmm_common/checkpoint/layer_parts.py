"""The parts of a layer: attention and MLP, or those that filters name; from tensor names alone.

A filter is a text that a tensor's name holds, as in mergekit's configurations: the first of several
filters that fits a name counts, and ``*`` fits every name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from apbmm_common.checkpoint.contents import opened, same_tensors
from apbmm_common.checkpoint.headers import Checkpoint, layer_of
from apbmm_common.checkpoint.tensor_groups import optional_tensors

ATTENTION, MLP, EXPERTS = "attention", "mlp", "experts"
EVERY_NAME = "*"

_MLP = re.compile(
    r"(?:^|[._])"
    r"(?:mlp|ffn?|feed_?forward|moe|experts?|router|fc1|fc2|fc_in|fc_out|ln_2|final_layer_norm)"
    r"(?:[._]|$)"
)
_EXPERTS = re.compile(r"(?:^|\.)experts(?:\.|$)")
# The norm after the attention: where norms of the MLP have names of their own (Gemma 2, OLMo 2) it
# belongs to the attention, else it is the norm before the MLP.
_MIDDLE_NORM = re.compile(r"post_attention_(?:layer)?norm(?:\.|$)")
_MLP_NORM = re.compile(r"(?:pre|post)_feedforward_(?:layer)?norm(?:\.|$)")


def natural_parts(names: Iterable[str], *, experts_apart: bool = False) -> dict[str, str]:
    """The part of each tensor of the layers: `ATTENTION`, `MLP`, and `EXPERTS` if they are apart.

    A layer norm is in the part that it stands before or after. All that is no part of the MLP
    (linear attention, state spaces, convolutions) counts as attention. Routers and shared experts
    are in the MLP. Tensors outside the layers are left out.
    """
    found: dict[str, str] = {}
    middle: dict[int, list[str]] = {}
    with_mlp_norms: set[int] = set()
    for name in names:
        layer = layer_of(name)
        if layer is None:
            continue
        rest = name.partition(f".{layer}.")[2]
        if experts_apart and _EXPERTS.search(rest):
            found[name] = EXPERTS
        else:
            found[name] = MLP if _MLP.search(rest) else ATTENTION
        if _MIDDLE_NORM.search(rest):
            middle.setdefault(layer, []).append(name)
        if _MLP_NORM.search(rest):
            with_mlp_norms.add(layer)
    before_mlp = (names for layer, names in middle.items() if layer not in with_mlp_norms)
    return found | {name: MLP for norms in before_mlp for name in norms}


def filtered_parts(names: Iterable[str], filters: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The name of the first filter that fits each tensor of the layers; others are left out.

    ``filters``: the texts of each filter, one of which a tensor's name has to hold.
    """
    found = {}
    for name in names:
        if layer_of(name) is None:
            continue
        for part, texts in filters.items():
            if EVERY_NAME in texts or any(text in name for text in texts):
                found[name] = part
                break
    return found


def layers_of_parts(
    checkpoints: Sequence[Checkpoint], part_of: Mapping[str, str], *, identical: bool
) -> dict[str, tuple[int, ...]]:
    """The layers in which each part has floating-point tensors that a merge computes.

    Parts of a layer all of whose tensors hold the same bytes in every checkpoint count only if
    ``identical``. Raises `SourceError` for a file that cannot be read.
    """
    left_out = optional_tensors(checkpoints)
    cells: dict[tuple[str, int], list[str]] = {}
    for name, tensor in checkpoints[-1].tensors.items():
        layer = layer_of(name)
        if layer is not None and name in part_of and name not in left_out and tensor.is_float:
            cells.setdefault((part_of[name], layer), []).append(name)
    found: dict[str, list[int]] = {}
    with opened(*checkpoints) as files:
        for (part, layer), names in sorted(cells.items()):
            tensors = ([c.tensors[name] for c in checkpoints] for name in names)
            if identical or not all(same_tensors(each, files) for each in tensors):
                found.setdefault(part, []).append(layer)
    return {part: tuple(layers) for part, layers in found.items()}
