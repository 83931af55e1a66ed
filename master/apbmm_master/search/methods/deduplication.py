"""Which vectors are the same, but for rounding, and which vectors of a sequence are new."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import WrongShapeError

# A proposal is at least this far (Euclidean distance) from other proposals and known vectors.
SEPARATION = 1e-5
# Two vectors that differ by no more in any component are the same vector, rounded by a caller.
SAME = 1e-6


def first_distinct(sequence: Iterable[Array], known: Array, count: int) -> list[Array]:
    """The first `count` vectors of an iterable that are distinct from `known` (k, D) and from each
    other. Fewer when the iterable ends before.
    """
    found: list[Array] = []
    taken = np.concatenate([known, np.empty((max(count, 0), known.shape[1]))])
    # Most sequences begin with vectors that are known exactly, for which no distances are needed.
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
    """Whether `vector` (D,) is at least SEPARATION away from each of `known` (k, D)."""
    if known.shape[1] != len(vector):
        raise WrongShapeError(f"vectors of length {known.shape[1]} and {len(vector)} do not mix")
    return not len(known) or float(np.linalg.norm(known - vector, axis=1).min()) >= SEPARATION


def find_same(rows: Array, vector: Array) -> int | None:
    """Index of the row of `rows` (k, D) that equals `vector` (D,) but for rounding, else None.

    Of several such rows the nearest.
    """
    apart = np.abs(rows - vector)
    same = np.flatnonzero((apart <= SAME).all(axis=1))
    return int(same[apart[same].sum(axis=1).argmin()]) if len(same) else None
