"""A checksum of a tensor's bits at the speed of memory, on a CPU or a GPU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

# Words are summed in this number of columns. It is a prime, so that a swap of rows or blocks
# changes the sums.
_COLUMNS = 1021
_WRAP = 1 << 64  # numpy's unsigned sums are taken modulo this too
_FACTORS = np.arange(1, 2 * _COLUMNS, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensor: torch.Tensor) -> int:
    """64 bits that depend on every bit of the tensor, and not on where it is stored.

    The sum, modulo 2^64, of 64-bit words times the factor of their column, and of the number of
    words. Not cryptographic: it finds errors, not forgeries.
    """
    flat = tensor.detach().contiguous().view(-1)
    words = _words(flat)
    whole = len(words) // _COLUMNS * _COLUMNS
    sums = _column_sums(words[:whole].view(-1, _COLUMNS)).view(np.uint64)
    rest = words[whole:].to(torch.int64).cpu().numpy().view(np.uint64)
    factors = _FACTORS[: len(rest)] ^ np.uint64(1)
    return (len(words) + int((_FACTORS * sums).sum()) + int((factors * rest).sum())) % _WRAP


def _words(flat: torch.Tensor) -> torch.Tensor:
    """The bits as 64-bit integers, or as integers of the item's size if these do not fit."""
    size = flat.element_size()
    if flat.numel() * size % 8 == 0:
        if flat.data_ptr() % 8 or flat.storage_offset() * size % 8:
            flat = flat.clone()
        return flat.view(torch.int64)
    return flat.view(_WORDS[size])


def _column_sums(words: torch.Tensor) -> npt.NDArray[np.int64]:
    sums: npt.NDArray[np.int64]
    if words.device.type == "cpu":  # numpy is twice as fast here
        sums = np.add.reduce(words.numpy(), axis=0, dtype=np.int64)
    else:
        sums = words.sum(0, dtype=torch.int64).cpu().numpy()
    return sums
