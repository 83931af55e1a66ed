"""Which vectors are the same, which are different, and which of a sequence are left to use."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import WrongShapeError

# No two proposals, nor a proposal and a known vector, are closer than this.
SEPARATION = 1e-5
# Components this far apart are still the same vector, rounded by a caller; the nearest counts.
SAME = 1e-6


def first_distinct(sequence: Iterable[Array], known: Array, count: int) -> list[Array]:
    """The first `count` vectors of an iterable that keep clear of `known` and of one another."""
    found: list[Array] = []
    taken = np.concatenate([known, np.empty((max(count, 0), known.shape[1]))])
    # A sequence mostly begins with vectors that it gave before, which need no distances.
    given = {vector.tobytes() for vector in known}
    if count > 0:
        for vector in sequence:
            if vector.tobytes() in given:
                continue
            end = len(known) + len(found)
            if is_distinct(vector, taken[:end]):
                taken[end] = vector
                found.append(vector)
            if len(found) >= count:
                break
    return found


def is_distinct(vector: Array, known: Array) -> bool:
    """Whether `vector` (D,) is at least SEPARATION away from every one of `known` (k, D)."""
    if known.shape[1] != len(vector):
        raise WrongShapeError(f"vectors of length {known.shape[1]} and {len(vector)} do not mix")
    return not len(known) or float(np.linalg.norm(known - vector, axis=1).min()) >= SEPARATION


def find_same(rows: Array, vector: Array) -> int | None:
    """Index of the one of `rows` (k, D) that `vector` (D,) is, but for rounding; None for none."""
    apart = np.abs(rows - vector)
    same = np.flatnonzero((apart <= SAME).all(axis=1))
    return int(same[apart[same].sum(axis=1).argmin()]) if len(same) else None
