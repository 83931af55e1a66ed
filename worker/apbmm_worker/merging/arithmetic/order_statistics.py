"""The largest elements of a tensor that is seen only in chunks, found exactly by counting.

The bits of magnitudes in float32 sort as the magnitudes do, so two counts find the magnitude of
any rank: a count of the upper 16 of 31 bits, and one of the lower 15 bits among the elements whose
upper bits are those of the magnitude looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Chunks: TypeAlias = Iterable[tuple[int, torch.Tensor]]
Stream = Callable[[], Iterator[tuple[int, torch.Tensor]]]
"""Gives the chunks of a task vector from its start: the place of a chunk's first element, and the
values (float; a chunk holds whole rows)."""
Counts: TypeAlias = npt.NDArray[np.int64]

_LOW_BITS = 15
_LOW = (1 << _LOW_BITS) - 1


@dataclass(frozen=True, slots=True)
class Threshold:
    """The largest elements of one tensor: all above a magnitude, and some that are equal to it.

    ``bits`` are the magnitude's in float32, where equality is judged as well; the first ``equals``
    elements that are equal to it are among the largest.
    """

    bits: int
    equals: int


class RankFilter:
    """Keeps the elements from one rank of magnitude to another; equal ones rank by position.

    To be called with the chunks of one tensor in order, each once.
    """

    def __init__(self, stream: Stream, first: int, count: int) -> None:
        """Ranks ``first`` to ``first + count``, 0 the largest; reads the tensor twice."""
        inside, *outside = thresholds(stream, (first + count, first) if first else (count,))
        self._inside = _Largest(inside)
        self._outside = _Largest(outside[0]) if outside else None

    def __call__(self, begin: int, values: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The chunk with zeros for all other elements."""
        bits = bits_of(values)
        mask = self._inside.mask(bits)
        if self._outside is not None:
            mask &= ~self._outside.mask(bits)
        return masked(values, mask)


class _Largest:
    """Which elements are among the largest, one chunk after another."""

    def __init__(self, threshold: Threshold) -> None:
        self._bits = threshold.bits
        self._equals_left = threshold.equals

    def mask(self, bits: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Which elements of the next chunk are among the largest."""
        inside: npt.NDArray[np.bool_] = bits > self._bits
        if self._equals_left:
            equal = np.flatnonzero(bits == self._bits)[: self._equals_left]
            inside[equal] = True
            self._equals_left -= len(equal)
        return inside


def masked(values: torch.Tensor, mask: npt.NDArray[np.bool_]) -> torch.Tensor:
    """The values with zeros where the mask is False; torch takes three times as long."""
    return torch.from_numpy(values.numpy() * mask)


def thresholds(stream: Stream, counts: Sequence[int]) -> tuple[Threshold, ...]:
    """For each count the threshold of exactly so many largest elements; reads the data twice."""
    upper = _upper_counts(stream())
    coarse = [_ranked(upper, count) for count in counts]
    fine = _lower_counts(stream(), [high for high, _ in coarse])
    found = []
    for count, (high, above) in zip(counts, coarse, strict=True):
        low, above_low = _ranked(fine[high], count - above)
        found.append(Threshold((high << _LOW_BITS) | low, count - above - above_low))
    return tuple(found)


def bits_of(values: torch.Tensor) -> npt.NDArray[np.int32]:
    """The bits of |values| in float32."""
    bits: npt.NDArray[np.int32] = values.abs().float().view(torch.int32).numpy()
    return bits


def _upper_counts(chunks: Chunks) -> Counts:
    """How many elements there are for each value of the upper bits."""
    counts = np.zeros(1 << (31 - _LOW_BITS), dtype=np.int64)
    for _, values in chunks:
        found = np.bincount(bits_of(values) >> _LOW_BITS)
        counts[: len(found)] += found
    return counts


def _lower_counts(chunks: Chunks, uppers: Iterable[int]) -> dict[int, Counts]:
    """For each of these upper bits, how many elements there are for each value of the lower."""
    counts = {upper: np.zeros(1 << _LOW_BITS, dtype=np.int64) for upper in uppers}
    for _, values in chunks:
        bits = bits_of(values)
        for upper, own in counts.items():
            found = np.bincount(bits[bits >> _LOW_BITS == upper] & _LOW)
            own[: len(found)] += found
    return counts


def _ranked(counts: Counts, rank: int) -> tuple[int, int]:
    """The value of the ``rank``-th largest element, and how many lie above that value."""
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, max(rank, 1)))
    return len(counts) - 1 - place, int(from_top[place] - counts[::-1][place])
