"""Deterministic point sequences in [0, 1]^D that search methods start from or consist of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from apbmm_master.arrays import Array


def scrambled_sobol(dimensions: int, seed: int, block: int = 64) -> Iterator[Array]:
    """The scrambled Sobol sequence of `seed`: vectors (D,), the same for every method."""
    from torch.quasirandom import SobolEngine

    engine = SobolEngine(dimensions, scramble=True, seed=seed)
    while True:
        yield from _draw(engine, block)


def _draw(engine: object, count: int) -> Array:
    import torch

    return np.asarray(engine.draw(count, dtype=torch.float64).numpy())  # type: ignore[attr-defined]


def spread_order(count: int) -> list[int]:
    """0 .. count - 1 in an order of which every beginning is spread over the whole range.

    Bit-reversed counting (van der Corput), so a grid that is stopped early has still been
    covered evenly.
    """
    bits = max(count - 1, 1).bit_length()
    reversed_bits = (int(format(i, f"0{bits}b")[::-1], 2) for i in range(2**bits))
    return [index for index in reversed_bits if index < count]
