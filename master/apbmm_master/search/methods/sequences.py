"""Deterministic point sequences in [0, 1]^D that search methods start from or consist of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import SettingError

MOST_DIMENSIONS = 21201
"""Longest vectors of torch's Sobol sequence: as many dimensions as have direction numbers."""


def require_sobol(dimensions: int) -> None:
    """Raise SettingError for more dimensions than a Sobol sequence can have."""
    if dimensions > MOST_DIMENSIONS:
        raise SettingError(
            f"dimensions is {dimensions}, more than {MOST_DIMENSIONS}",
            "torch's Sobol sequence has no more; let several layers share a component",
        )


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Let the caller's settings of torch (default precision, gradient mode) decide nothing.

    SobolEngine computes its first point, and GPyTorch its initial parameters, in the default
    precision, which neither takes as an argument. Like torch's own setting, it is for all threads.
    """
    torch = sys.modules.get("torch")
    if torch is None:  # nobody has set anything, and some methods never need it
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(before)


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
