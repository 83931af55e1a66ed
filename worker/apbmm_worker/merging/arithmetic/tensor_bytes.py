"""The bytes of tensors: their dtypes, memory for them, and whether floats are finite."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

TORCH_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
# Dtypes that a merge only copies.
_COPIED = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
ALIGNMENT = 8  # bytes, of data in a safetensors file

ByteProgress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes that there are to do."""

# Each float dtype's bits of positive infinity, which every NaN lies above.
_INFINITY: dict[str, tuple[type[np.signedinteger[Any]], int]] = {
    "BF16": (np.int16, 0x7F80),
    "F16": (np.int16, 0x7C00),
    "F32": (np.int32, 0x7F80_0000),
    "F64": (np.int64, 0x7FF0_0000_0000_0000),
}


class FileBuffer:
    """Memory for parts of files, which is reused and grows when it has to."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def at(self, offset: int, length: int) -> memoryview:
        """``length`` bytes that lie in their pages as the bytes from ``offset`` of a file do.

        Some processors copy five times as slowly to an address that lies a few bytes further on in
        its page, because they take that for an overlap (`benchmarks/merging/copy_alignment.py`).
        The memory is aligned for numbers even where the file is not.
        """
        begin = offset % mmap.PAGESIZE & -ALIGNMENT
        if begin + length > len(self._memory):
            self._memory = mmap.mmap(-1, mmap.PAGESIZE + length)
        return memoryview(self._memory)[begin : begin + length]


def stored_dtype(name: str) -> torch.dtype:
    """The torch dtype of a safetensors dtype."""
    return TORCH_DTYPES.get(name) or _COPIED[name]


def all_finite(data: memoryview, dtype: str) -> bool:
    """Whether every element of ``data`` is finite; True for every dtype that is no float.

    Read as integers, infinities and NaNs are the largest numbers: those with the sign bit clear
    among signed integers, those with the sign bit set among unsigned ones.
    """
    if dtype not in _INFINITY or not data:
        return True
    signed, infinity = _INFINITY[dtype]
    numbers = np.frombuffer(data, dtype=signed)
    if int(numbers.max()) >= infinity:
        return False
    unsigned = numbers.view(f"u{numbers.itemsize}")
    sign = 1 << (8 * numbers.itemsize - 1)
    return int(unsigned.max()) < sign | infinity
