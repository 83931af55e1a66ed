"""Checksums of tensors at the speed of memory, on a CPU or a GPU, and digests of checkpoints."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from apbmm_common.checkpoint.contents import opened, read_into
from apbmm_common.checkpoint.headers import TensorHeader, read_checkpoint
from apbmm_worker.merging.arithmetic.tensor_bytes import stored_dtype
from apbmm_worker.merging.merge import threads
from apbmm_worker.merging.planning.plan import TensorPlan

# Words are summed in this number of columns. It is a prime, so that a swap of rows or blocks
# changes the sums.
_COLUMNS = 1021
_WRAP = 1 << 64  # numpy's unsigned sums are taken modulo this too
_FACTORS = np.arange(1, 2 * _COLUMNS, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PART_BYTES = 1 << 22  # of a file, read at once


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


class PartwiseChecksum:
    """The `checksum` of a tensor from its bytes, whose parts come in any order, from any thread.

    ``length`` is the tensor's, in bytes.
    """

    def __init__(self, dtype: torch.dtype, length: int) -> None:
        self._word = 8 if length % 8 == 0 else dtype.itemsize
        self._words = length // self._word
        self._whole = self._words // _COLUMNS * _COLUMNS
        self._total = self._seen = 0
        self._lock = threading.Lock()

    def add(self, offset: int, data: memoryview) -> None:
        """Take in the bytes from ``offset`` on. A part of a word makes the value None."""
        if offset % self._word or len(data) % self._word:
            return
        words = np.frombuffer(data, dtype=f"i{self._word}")
        first, regular = offset // self._word, max(self._whole - offset // self._word, 0)
        total = _regular(words[:regular], first % _COLUMNS)
        rest = words[regular:].astype(np.int64).view(np.uint64)
        begin = max(first - self._whole, 0)
        total += int(((_FACTORS[begin : begin + len(rest)] ^ np.uint64(1)) * rest).sum())
        with self._lock:
            self._total += total
            self._seen += len(words)

    @property
    def value(self) -> int | None:
        """The checksum; None where not all words were seen."""
        return (self._words + self._total) % _WRAP if self._seen == self._words else None


def _regular(words: npt.NDArray[Any], column: int) -> int:
    """The sum of words times their factors; the first word is in ``column``."""
    head = words[: (_COLUMNS - column) % _COLUMNS]
    middle = words[len(head) : len(head) + (len(words) - len(head)) // _COLUMNS * _COLUMNS]
    tail = words[len(head) + len(middle) :]
    sums = np.add.reduce(middle.reshape(-1, _COLUMNS), axis=0, dtype=np.int64)
    total = int((_FACTORS * sums.view(np.uint64)).sum())
    for part, begin in ((head, column), (tail, 0)):
        wide = part.astype(np.int64).view(np.uint64)
        total += int((_FACTORS[begin : begin + len(wide)] * wide).sum())
    return total


def checksum_in_file(header: TensorHeader, descriptor: int) -> int:
    """The `checksum` of a tensor in a safetensors file, read in parts: memory stays flat.

    Raises `SourceError` for a file that cannot be read.
    """
    found = PartwiseChecksum(stored_dtype(header.dtype), header.length)
    buffer = memoryview(bytearray(min(header.length, _PART_BYTES)))
    for begin in range(0, header.length, _PART_BYTES):
        part = buffer[: min(_PART_BYTES, header.length - begin)]
        read_into(descriptor, part, header.offset + begin, header.file)
        found.add(begin, part)
    assert found.value is not None
    return found.value


class WeightsDigest:
    """A digest of the tensors of a checkpoint, in any order and however they are sharded."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}

    def add(self, name: str, dtype: torch.dtype, shape: Iterable[int], of_tensor: int) -> None:
        """Take in a tensor whose `checksum` is ``of_tensor``."""
        self._lines[name] = f"{name} {dtype} {'x'.join(map(str, shape))} {of_tensor}\n"

    def hexdigest(self) -> str:
        """SHA-256 of a line for each tensor: its name, dtype, shape and checksum."""
        lines = (self._lines[name] for name in sorted(self._lines))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class MergeChecksums:
    """The checksums of a merge's tensors, taken while they are computed."""

    def __init__(self, plans: Sequence[TensorPlan]) -> None:
        self._plans = {tensor.name: tensor for tensor in plans}
        self._sums = {p.name: PartwiseChecksum(stored_dtype(p.dtype), p.length) for p in plans}

    def written(self, tensor: TensorPlan, offset: int, data: memoryview) -> None:
        """Take in a part of a tensor; see `merging.merge.Additions`."""
        self._sums[tensor.name].add(offset, data)

    def digest(self, left_out: frozenset[str] = frozenset()) -> str | None:
        """The `WeightsDigest` without the tensors that are ``left_out``.

        None where a part held a part of a word, as it may behind a tensor of an odd length.
        """
        found = WeightsDigest()
        for name, tensor in self._plans.items():
            if name in left_out:
                continue
            of_tensor = self._sums[name].value
            if of_tensor is None:
                return None
            found.add(name, stored_dtype(tensor.dtype), tensor.shape, of_tensor)
        return found.hexdigest()


def folder_digest(folder: Path, left_out: frozenset[str] = frozenset()) -> str:
    """The `WeightsDigest` of a checkpoint folder, without the tensors that are ``left_out``.

    Raises `SourceError` for a folder that cannot be read.
    """
    found = WeightsDigest()
    checkpoint = read_checkpoint(folder)
    headers = [header for name, header in checkpoint.tensors.items() if name not in left_out]
    with opened(checkpoint) as files, threads() as executor:
        work = [executor.submit(partial(checksum_in_file, h, files[h.file])) for h in headers]
        for header, future in zip(headers, work, strict=True):
            found.add(header.name, stored_dtype(header.dtype), header.shape, future.result())
    return found.hexdigest()


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
