"""Blocks of contiguous layers, by their number or by their borders; pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from apbmm_common.errors import RunFileError


def block_of(layers: int, blocks: int) -> tuple[int, ...]:
    """The block (0 .. blocks - 1) of each layer; block sizes differ by one layer at most.

    Raises `RunFileError` unless 1 <= blocks <= layers.
    """
    if not 1 <= blocks <= layers:
        raise RunFileError(
            f"merge.blocks: {layers} layers cannot be cut into {blocks} blocks",
            f"a whole number from 1 to {layers}, or nothing for a weight of its own for each layer",
        )
    return tuple(layer * blocks // layers for layer in range(layers))


def block_by_borders(layers: int, borders: Sequence[int]) -> tuple[int, ...]:
    """The block of each layer, where ``borders`` are the first layers of all blocks but the first.

    They increase, and are over 0. Raises `RunFileError` for one that is no layer.
    """
    if borders and borders[-1] >= layers:
        raise RunFileError(
            f"merge.borders: no block can begin at layer {borders[-1]}: the layers are 0 to "
            f"{layers - 1}",
            "the first layers of all blocks but the first, in increasing order",
        )
    return tuple(bisect_right(borders, layer) for layer in range(layers))
