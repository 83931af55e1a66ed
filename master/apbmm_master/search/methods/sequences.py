"""Deterministic sequences of points in [0, 1]^D, used as initial designs and as whole methods."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import SettingError

MOST_DIMENSIONS = 21201
"""The most dimensions of torch's Sobol sequence: it has direction numbers for no more."""


def require_sobol(dimensions: int) -> None:
    """Raise SettingError for more dimensions than a Sobol sequence can have."""
    if dimensions > MOST_DIMENSIONS:
        raise SettingError(
            f"dimensions is {dimensions}, more than {MOST_DIMENSIONS}",
            "torch's Sobol sequence has no more; let several layers share a component",
        )


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Use torch's own default precision and gradient mode, whatever the caller has set.

    SobolEngine computes its first point in the default precision, and GPyTorch its initial
    parameters. Neither takes the precision as an argument. Like torch's setting itself, this one
    holds for all threads.
    """
    torch = sys.modules.get("torch")
    if torch is None:  # not imported, so nothing is set; some methods never need torch
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
    """0 .. count - 1 in an order whose every prefix is spread over the whole range.

    The order is that of bit-reversed counting (van der Corput).
    """
    bits = max(count - 1, 1).bit_length()
    reversed_bits = (int(format(i, f"0{bits}b")[::-1], 2) for i in range(2**bits))
    return [index for index in reversed_bits if index < count]


def van_der_corput(number: int) -> float:
    """Entry ``number`` (from 1) of the sequence in base 2: 1/2, 1/4, 3/4, 1/8, ..."""
    bits = f"{number:b}"
    return int(bits[::-1], 2) / (1 << len(bits))
