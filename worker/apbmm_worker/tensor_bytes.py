"""Tensor bytes from safetensors files by positioned reads, and a check that floats are finite.

Positioned reads into reused buffers keep memory flat whatever a checkpoint's size, and were faster
than memory maps here (see `benchmarks/merge_speed.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apbmm_common.checkpoint import Checkpoint
from apbmm_common.errors import SourceError

TORCH_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
# The exponent bits of each float dtype: all of them set means infinity or NaN.
_EXPONENTS: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "BF16": (np.uint16, 0x7F80),
    "F16": (np.uint16, 0x7C00),
    "F32": (np.uint32, 0x7F80_0000),
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
}


@contextmanager
def opened(*checkpoints: Checkpoint) -> Iterator[dict[Path, int]]:
    """File descriptors of all weight files, closed at the end.

    Raises `SourceError` naming a file that cannot be opened.
    """
    with ExitStack() as stack:
        descriptors: dict[Path, int] = {}
        for file in {file for checkpoint in checkpoints for file in checkpoint.files}:
            try:
                descriptors[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise SourceError(f"{file}: cannot be read: {error.strerror}") from error
            stack.callback(os.close, descriptors[file])
        yield descriptors


def read_into(descriptor: int, buffer: memoryview, offset: int, file: Path) -> None:
    """Fill ``buffer`` (bytes) from ``offset`` of the file.

    Raises `SourceError` when the file ends before, or cannot be read.
    """
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(descriptor, [buffer[done:]], offset + done)
        except OSError as error:
            raise SourceError(f"{file}: cannot be read: {error.strerror}") from error
        if count == 0:
            raise SourceError(f"{file}: has become shorter since its header was read")
        done += count


class FiniteCheck:
    """Tells whether bytes of a float dtype hold only finite numbers; reuses one scratch buffer."""

    def __init__(self, chunk: int) -> None:
        """``chunk``: the most bytes that will be given at once."""
        self._scratch = bytearray(chunk)

    def __call__(self, data: memoryview, dtype: str) -> bool:
        """True when every element of ``data`` is finite, and for every dtype that is no float."""
        if dtype not in _EXPONENTS or not data:
            return True
        kind, exponent = _EXPONENTS[dtype]
        words = np.frombuffer(data, dtype=kind)
        bits = np.frombuffer(self._scratch, dtype=kind, count=len(words))
        mask = kind(exponent)
        np.bitwise_and(words, mask, out=bits)
        return bool(bits.max() != mask)
