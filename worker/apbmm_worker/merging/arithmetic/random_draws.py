"""Elements that are dropped at random, from a tensor that is seen only in chunks.

Random numbers are taken by position from a counter-based generator (Philox, keyed on the seed, the
source and the tensor's name), so neither the order in which tensors are merged nor the size of the
chunks changes a result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from apbmm_worker.merging.arithmetic.order_statistics import Stream, bits_of, masked

_TINY = 1e-7  # tensors with a smaller L1 norm are not scaled, as in mergekit
_WORDS = 8  # 32-bit random numbers from one step of the counter
_ALL_NUMBERS = 1 << 32
_REMEMBERED = 1 << 26  # elements of a tensor whose draw is remembered: 8 MB, a bit for each

Chances = Callable[[torch.Tensor], Any]
"""The probability of staying of each element of a chunk: an array, or one number for all."""


def draw_key(seed: int, source: int, tensor: str) -> npt.NDArray[np.uint64]:
    """The generator's key for one source's tensor."""
    identity = f"{seed}\n{source}\n{tensor}"
    digest = hashlib.blake2b(identity.encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype="<u8")


class RandomDraw:
    """Keeps every element with its own chance, and scales what stays to the L1 norm before.

    The first pass over the tensor finds that scale. What it draws for a tensor of at most
    `_REMEMBERED` elements is remembered for the second.
    """

    def __init__(
        self, stream: Stream, elements: int, key: npt.NDArray[np.uint64], chances: Chances
    ) -> None:
        self._chances = chances
        self._key = key
        self._remember = elements <= _REMEMBERED
        self._remembered: dict[int, npt.NDArray[np.uint8]] = {}
        self._scale = self._norm_ratio(stream)

    def __call__(self, begin: int, values: torch.Tensor) -> torch.Tensor:
        """The chunk with zeros for what is dropped, the rest scaled."""
        return self._kept(begin, values).mul_(self._scale)

    def _kept(self, begin: int, values: torch.Tensor) -> torch.Tensor:
        return masked(values, self._mask(begin, values))

    def _mask(self, begin: int, values: torch.Tensor) -> npt.NDArray[np.bool_]:
        if begin in self._remembered:
            return np.unpackbits(self._remembered[begin], count=len(values)).view(np.bool_)
        numbers = _random(self._key, begin, len(values))
        mask: npt.NDArray[np.bool_] = numbers < self._chances(values) * _ALL_NUMBERS
        if self._remember:
            self._remembered[begin] = np.packbits(mask)
        return mask

    def _norm_ratio(self, stream: Stream) -> float:
        """The L1 norm before dropping by the norm after."""
        before, after = 0.0, 0.0
        for begin, values in stream():
            before += float(values.abs().sum(dtype=torch.float64))
            after += float(self._kept(begin, values).abs().sum(dtype=torch.float64))
        return before / after if min(before, after) >= _TINY else 1.0


def even(chance: float) -> Chances:
    """The same chance for every element."""
    return lambda _: chance


def by_rank(chance: float, spread: float, row: int) -> Chances:
    """Linear in the rank of the magnitude within its row, the largest most likely to stay.

    From ``chance - spread`` to ``chance + spread``; ``row`` is the number of elements of a row.
    """
    steps = np.arange(row) * (2 * spread / max(row - 1, 1))
    of_rank = torch.from_numpy(chance - spread + steps)

    def chances(values: torch.Tensor) -> npt.NDArray[np.float64]:
        # Sorting magnitudes with their places is faster than sorting places by magnitudes.
        order = bits_of(values).reshape(-1, row).astype(np.int64)
        order <<= 32
        order |= np.arange(row)
        order.sort(axis=1)
        order &= _ALL_NUMBERS - 1
        found = torch.empty(order.shape, dtype=torch.float64)
        found.scatter_(1, torch.from_numpy(order), of_rank.expand(order.shape))
        flat: npt.NDArray[np.float64] = found.view(-1).numpy()
        return flat

    return chances


def _random(key: npt.NDArray[np.uint64], begin: int, count: int) -> npt.NDArray[np.uint32]:
    """The random numbers (32 bits) at the places ``begin`` to ``begin + count`` of a sequence."""
    skipped = begin % _WORDS
    generator = np.random.Philox(key=key, counter=begin // _WORDS)
    words: npt.NDArray[np.uint32] = generator.random_raw((skipped + count + 1) // 2).view("<u4")
    return words[skipped : skipped + count]
