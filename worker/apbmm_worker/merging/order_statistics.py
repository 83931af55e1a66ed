"""The largest elements of what is seen only in chunks, found exactly by counting bit patterns.

The bits of magnitudes in float32 sort as the magnitudes do, so two counts find the one of any rank:
of the upper 16 of 31 bits, and of the lower 15 where the upper are those of the one looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from apbmm_worker.merging.methods import Cut

Chunks: TypeAlias = Iterable[tuple[int, torch.Tensor]]
Stream = Callable[[], Iterator[tuple[int, torch.Tensor]]]
"""Gives the chunks of a task vector from its start: place of the first element, and values (float,
one row after another where the method goes by rows)."""
Counts: TypeAlias = npt.NDArray[np.int64]

_LOW_BITS = 15
_LOW = (1 << _LOW_BITS) - 1


class OrderStatistics:
    """Keeps what is among the largest of ``inner`` but not of ``outer``; equals go by position.

    For the chunks of one tensor, in order.
    """

    def __init__(self, inner: Cut, outer: Cut | None = None) -> None:
        self._inner = _Largest(inner)
        self._outer = None if outer is None else _Largest(outer)

    def __call__(self, begin: int, values: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The chunk with zeros for what goes."""
        bits = bits_of(values)
        mask = self._inner.mask(bits)
        if self._outer is not None:
            mask &= ~self._outer.mask(bits)
        return masked(values, mask)


class _Largest:
    """Which elements are above a cut, one chunk after another."""

    def __init__(self, cut: Cut) -> None:
        self._bits = cut.bits
        self._equals = cut.equals

    def mask(self, bits: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Which elements of the next chunk are among them."""
        inside: npt.NDArray[np.bool_] = bits > self._bits
        if self._equals:
            equal = np.flatnonzero(bits == self._bits)[: self._equals]
            inside[equal] = True
            self._equals -= len(equal)
        return inside


def masked(values: torch.Tensor, mask: npt.NDArray[np.bool_]) -> torch.Tensor:
    """The values with zeros where the mask is False; torch takes three times as long."""
    return torch.from_numpy(values.numpy() * mask)


def cuts(stream: Stream, counts: Sequence[int]) -> tuple[Cut, ...]:
    """For each count a cut that takes exactly so many of the largest; two passes over the data."""
    upper = upper_counts(stream())
    coarse = [ranked(upper, count) for count in counts]
    fine = lower_counts(stream(), [high for high, _ in coarse])
    found = []
    for count, (high, above) in zip(counts, coarse, strict=True):
        low, above_low = ranked(fine[high], count - above)
        found.append(Cut(joined(high, low), count - above - above_low))
    return tuple(found)


def upper_counts(chunks: Chunks) -> Counts:
    """How many elements there are for each value of the upper bits."""
    counts = np.zeros(1 << (31 - _LOW_BITS), dtype=np.int64)
    for _, values in chunks:
        found = np.bincount(bits_of(values) >> _LOW_BITS)
        counts[: len(found)] += found
    return counts


def lower_counts(chunks: Chunks, uppers: Iterable[int]) -> dict[int, Counts]:
    """How many elements there are for each value of the lower bits, for these upper ones each."""
    counts = {upper: np.zeros(1 << _LOW_BITS, dtype=np.int64) for upper in uppers}
    for _, values in chunks:
        bits = bits_of(values)
        for upper, own in counts.items():
            found = np.bincount(bits[bits >> _LOW_BITS == upper] & _LOW)
            own[: len(found)] += found
    return counts


def count_equal(chunks: Chunks, bits: int) -> int:
    """How many elements have exactly these bits."""
    return sum(int(np.count_nonzero(bits_of(values) == bits)) for _, values in chunks)


def ranked(counts: Counts, rank: int) -> tuple[int, int]:
    """The value of the ``rank``-th largest element, and how many lie above that value."""
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, max(rank, 1)))
    return len(counts) - 1 - place, int(from_top[place] - counts[::-1][place])


def joined(upper: int, lower: int) -> int:
    """All bits of a magnitude."""
    return (upper << _LOW_BITS) | lower


def bits_of(values: torch.Tensor) -> npt.NDArray[np.int32]:
    """The bits of |values| in float32."""
    bits: npt.NDArray[np.int32] = values.abs().float().view(torch.int32).numpy()
    return bits
