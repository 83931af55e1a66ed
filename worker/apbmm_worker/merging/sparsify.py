"""Which elements of a task vector stay, and how they are scaled: the Theta of one task vector.

Every selection sees a task vector in chunks, in order, and never the whole of it, so that memory
stays flat: the largest elements are found by counting (`magnitudes`), and random numbers are
counted out by position (Philox, keyed on seed, source and tensor), so that neither the order in
which tensors are merged nor how they are cut changes a result.

TIES trims the whole task vector at once where its paper's definition is asked for, which takes
cuts that were found beforehand (`whole_trim`). Breadcrumbs mask each tensor by itself, as their
paper does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from apbmm_worker.merging.methods import Cut, TaskVectors
from apbmm_worker.merging.order_statistics import OrderStatistics, Stream, bits_of, cuts, masked

_TINY = 1e-7  # norms below this are not scaled, as in mergekit
_WORDS = 8  # 32-bit random numbers from one step of the counter
_ALL_NUMBERS = 1 << 32
_REMEMBERED = 1 << 26  # elements of a tensor whose draw is remembered: 8 MB, a bit for each


class Selection(Protocol):
    """Given the chunks of a task vector in order, gives what stays of each, scaled."""

    def __call__(self, begin: int, values: torch.Tensor) -> torch.Tensor:
        """The chunk with zeros for what goes."""
        ...


def selection(
    rule: TaskVectors,
    stream: Stream,
    elements: int,
    row: int,
    identity: str,
    cut: Cut | None = None,
) -> Selection:
    """What ``rule`` keeps of one tensor's task vector of so many ``elements``.

    ``row`` is the length of the tensor's last dimension; ``identity`` names source and tensor to
    the random methods; ``cut`` is where a rule that trims whole task vectors cuts this tensor's.
    Reads the task vector up to twice where the rule depends on all of it.
    """
    keeps = rule.theta.keeps
    if keeps == "all" or rule.density >= 1.0 or not elements:
        return _everything
    if rule.trims_whole:
        assert cut is not None, "whole_trim.trimmed was not asked for the plans' cuts"
        return OrderStatistics(cut)
    kept = int(rule.density * elements)
    if keeps == "largest":
        kept = max(1, kept)
        return OrderStatistics(*cuts(stream, (kept,)))
    if keeps == "middle":
        # Fewer of the largest go where the density would not be kept otherwise.
        first = min(int(rule.gamma * elements), elements - kept)
        return OrderStatistics(*cuts(stream, (first + kept, first)))
    chances = _even(rule.density) if keeps == "random" else _by_rank(rule, row)
    key = _key(rule.seed, identity)
    if rule.definition == "paper":
        return _by_chance(chances, key)
    draw = _Draw(chances, key, remember=elements <= _REMEMBERED)
    draw.scale = _norm_ratio(stream, draw)
    return draw


def _everything(begin: int, values: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    return values


# ---- at random ----

Chances = Callable[[torch.Tensor], Any]
"""The probability of staying of each element of a chunk: an array, or one number for all."""


def _by_chance(chances: Chances, key: npt.NDArray[np.uint64]) -> Selection:
    """Keeps every element with its own probability, and divides by it what stays."""

    def keep(begin: int, values: torch.Tensor) -> torch.Tensor:
        own = np.asarray(chances(values))
        stay = _drawn(key, begin, len(values), own)
        # What has no chance at all (della's smallest, at a low density) never stays.
        factors = np.divide(stay, own, out=np.zeros(len(values)), where=own > 0)
        return values * torch.from_numpy(factors).to(values.dtype)

    return keep


class _Draw:
    """Keeps every element with its own probability, and multiplies by ``scale`` what stays.

    What is drawn in a first pass is used again in the second when ``remember`` is set.
    """

    def __init__(self, chances: Chances, key: npt.NDArray[np.uint64], *, remember: bool) -> None:
        self._chances = chances
        self._key = key
        self._remember = remember
        self._remembered: dict[int, npt.NDArray[np.uint8]] = {}
        self.scale = 1.0

    def __call__(self, begin: int, values: torch.Tensor) -> torch.Tensor:
        return masked(values, self._mask(begin, values)).mul_(self.scale)

    def _mask(self, begin: int, values: torch.Tensor) -> npt.NDArray[np.bool_]:
        if begin in self._remembered:
            return np.unpackbits(self._remembered[begin], count=len(values)).view(np.bool_)
        mask = _drawn(self._key, begin, len(values), self._chances(values))
        if self._remember:
            self._remembered[begin] = np.packbits(mask)
        return mask


def _drawn(
    key: npt.NDArray[np.uint64], begin: int, count: int, chances: Any
) -> npt.NDArray[np.bool_]:
    """Which of the elements ``begin`` to ``begin + count`` stay."""
    stay: npt.NDArray[np.bool_] = _random(key, begin, count) < chances * _ALL_NUMBERS
    return stay


def _even(density: float) -> Chances:
    return lambda _: density


def _by_rank(rule: TaskVectors, row: int) -> Chances:
    """Linear in the rank of the magnitude within its row, the largest most likely to stay."""
    lowest, width = rule.density - rule.half_range, 2 * rule.half_range
    by_rank = torch.from_numpy(lowest + np.arange(row) * (width / max(row - 1, 1)))

    def chances(values: torch.Tensor) -> npt.NDArray[np.float64]:
        # Sorting magnitudes with their places is faster than sorting places by magnitudes.
        order = bits_of(values).reshape(-1, row).astype(np.int64)
        order <<= 32
        order |= np.arange(row)
        order.sort(axis=1)
        order &= _ALL_NUMBERS - 1
        found = torch.empty(order.shape, dtype=torch.float64)
        found.scatter_(1, torch.from_numpy(order), by_rank.expand(order.shape))
        flat: npt.NDArray[np.float64] = found.view(-1).numpy()
        return flat

    return chances


def _norm_ratio(stream: Stream, draw: _Draw) -> float:
    """The L1 norm before by that after the draw."""
    before, after = 0.0, 0.0
    for begin, values in stream():
        before += float(values.abs().sum(dtype=torch.float64))
        after += float(draw(begin, values).abs().sum(dtype=torch.float64))
    return before / after if min(before, after) >= _TINY else 1.0


def _key(seed: int, identity: str) -> npt.NDArray[np.uint64]:
    digest = hashlib.blake2b(f"{seed}\n{identity}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype="<u8")


def _random(key: npt.NDArray[np.uint64], begin: int, count: int) -> npt.NDArray[np.uint32]:
    """32-bit random numbers number ``begin`` to ``begin + count`` of a key's sequence."""
    skipped = begin % _WORDS
    generator = np.random.Philox(key=key, counter=begin // _WORDS)
    words: npt.NDArray[np.uint32] = generator.random_raw((skipped + count + 1) // 2).view("<u4")
    return words[skipped : skipped + count]
