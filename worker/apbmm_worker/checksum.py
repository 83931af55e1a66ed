"""A checksum of a tensor's bits at the speed of memory, on a CPU or a GPU."""

from __future__ import annotations

import numpy as np
import torch

# Words are summed in so many columns: a prime, so that a swap of rows or blocks changes the sums.
_COLUMNS = 1021
_WRAP = 1 << 64
_FACTORS = [(2 * column + 1) * 0x9E3779B97F4A7C15 % _WRAP for column in range(_COLUMNS)]
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensor: torch.Tensor) -> int:
    """64 bits that depend on every bit of the tensor, and not on where it is stored.

    Not cryptographic: it finds errors, not forgeries.
    """
    flat = tensor.detach().contiguous().view(-1)
    words = _words(flat)
    whole = len(words) // _COLUMNS * _COLUMNS
    sums = _column_sums(words[:whole].view(-1, _COLUMNS))
    rest = words[whole:].tolist()
    total: int = sum(factor * value for factor, value in zip(_FACTORS, sums, strict=True))
    total += sum((factor ^ 1) * value for factor, value in zip(_FACTORS, rest, strict=False))
    return (total + len(words)) % _WRAP


def _words(flat: torch.Tensor) -> torch.Tensor:
    """The bits as the widest integers that divide them."""
    size = flat.element_size()
    if flat.numel() * size % 8 == 0:
        if flat.data_ptr() % 8 or flat.storage_offset() * size % 8:
            flat = flat.clone()
        return flat.view(torch.int64)
    return flat.view(_WORDS[size])


def _column_sums(words: torch.Tensor) -> list[int]:
    if words.device.type == "cpu":  # numpy is twice as fast here
        return [int(value) for value in np.add.reduce(words.numpy(), axis=0, dtype=np.int64)]
    return [int(value) for value in words.sum(0, dtype=torch.int64).tolist()]
