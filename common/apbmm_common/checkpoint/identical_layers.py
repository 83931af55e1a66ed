"""Layers whose tensors are identical in all sources: their weight in a merge changes nothing.

Examples are the layers that a LoRA fine-tune had no adapters on, and frozen layers. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from apbmm_common.checkpoint.headers import Checkpoint, TensorHeader, layer_of
from apbmm_common.checkpoint.tensor_groups import optional_tensors
from apbmm_common.errors import SourceError, unreadable

CHUNK_BYTES = 1 << 20


def identical_layers(checkpoints: Sequence[Checkpoint]) -> tuple[int, ...]:
    """The layers all of whose tensors hold the same bytes in every checkpoint, in order.

    Tensors that a merge leaves out do not count. Equal numbers in two dtypes are not the same
    bytes. The comparison of a layer ends at the first difference, so that a pair without such
    layers costs one chunk a layer. Raises `SourceError` for a file that cannot be read.
    """
    left_out = optional_tensors(checkpoints)
    layers: dict[int, list[str]] = {}
    for name in checkpoints[0].tensors:
        layer = layer_of(name)
        if layer is not None and name not in left_out:
            layers.setdefault(layer, []).append(name)
    with ExitStack() as stack:
        files: dict[Path, BinaryIO] = {}
        for file in {file for checkpoint in checkpoints for file in checkpoint.files}:
            try:
                files[file] = stack.enter_context(file.open("rb", buffering=0))
            except OSError as error:
                raise unreadable(file, error) from error
        return tuple(
            layer
            for layer, names in sorted(layers.items())
            if all(_same([c.tensors[name] for c in checkpoints], files) for name in names)
        )


def _same(tensors: Sequence[TensorHeader], files: Mapping[Path, BinaryIO]) -> bool:
    """Whether a tensor holds the same bytes in all sources."""
    first, *others = tensors
    if any((other.dtype, other.shape) != (first.dtype, first.shape) for other in others):
        return False
    for begin in range(0, first.length, CHUNK_BYTES):
        size = min(CHUNK_BYTES, first.length - begin)
        data = _read(first, begin, size, files)
        if any(_read(other, begin, size, files) != data for other in others):
            return False
    return True


def _read(tensor: TensorHeader, begin: int, size: int, files: Mapping[Path, BinaryIO]) -> bytes:
    file, data = files[tensor.file], bytearray()
    try:
        file.seek(tensor.offset + begin)
        while len(data) < size and (part := file.read(size - len(data))):
            data += part
    except OSError as error:
        raise unreadable(tensor.file, error) from error
    if len(data) < size:
        raise SourceError(f"{tensor.file}: ends within tensor {tensor.name}")
    return bytes(data)


def not_searched(layers: Sequence[int]) -> str:
    """One line that says which layers are not searched and why; ``layers`` in increasing order."""
    ranges: list[list[int]] = []
    for layer in layers:
        if ranges and ranges[-1][-1] == layer - 1:
            ranges[-1] = [ranges[-1][0], layer]
        else:
            ranges.append([layer])
    named = ", ".join("-".join(map(str, ends)) for ends in ranges)
    which = f"layer {named} is" if len(layers) == 1 else f"layers {named} are"
    whose = "its" if len(layers) == 1 else "their"
    return f"{which} not searched: {whose} tensors are identical in all sources"
