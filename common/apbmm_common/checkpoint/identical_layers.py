"""Layers whose tensors are identical in all sources: their weight in a merge changes nothing.

Examples are the layers that a LoRA fine-tune had no adapters on, and frozen layers. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from apbmm_common.checkpoint.contents import opened, same_tensors
from apbmm_common.checkpoint.headers import Checkpoint, layer_of
from apbmm_common.checkpoint.tensor_groups import optional_tensors


def identical_layers(checkpoints: Sequence[Checkpoint]) -> tuple[int, ...]:
    """The layers all of whose tensors hold the same bytes in every checkpoint, in order.

    Tensors that a merge leaves out do not count, and a tensor that an adapter changes is not the
    same. Equal numbers in two dtypes are not the same bytes. The comparison of a layer ends at the
    first difference, so that a pair without such layers costs one chunk a layer. Raises
    `SourceError` for a file that cannot be read.
    """
    left_out = optional_tensors(checkpoints)
    changed = frozenset[str]().union(*(checkpoint.changed for checkpoint in checkpoints))
    layers: dict[int, list[str]] = {}
    for name in checkpoints[0].tensors:
        layer = layer_of(name)
        if layer is not None and name not in left_out:
            layers.setdefault(layer, []).append(name)
    with opened(*checkpoints) as files:
        return tuple(
            layer
            for layer, names in sorted(layers.items())
            if changed.isdisjoint(names)
            and all(same_tensors([c.tensors[name] for c in checkpoints], files) for name in names)
        )


def not_searched(layers: Sequence[int]) -> str:
    """One line that says which layers are not searched and why; ``layers`` in increasing order."""
    which = "layer {} is" if len(layers) == 1 else "layers {} are"
    whose = "its" if len(layers) == 1 else "their"
    found = which.format(layer_ranges(layers))
    return f"{found} not searched: {whose} tensors are identical in all sources"


def layer_ranges(layers: Sequence[int]) -> str:
    """Layers, in increasing order, as in ``0-3, 7``."""
    ranges: list[list[int]] = []
    for layer in layers:
        if ranges and ranges[-1][-1] == layer - 1:
            ranges[-1] = [ranges[-1][0], layer]
        else:
            ranges.append([layer])
    return ", ".join("-".join(map(str, ends)) for ends in ranges)
