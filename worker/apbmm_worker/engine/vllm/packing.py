"""Matrices that vLLM multiplies by in packed copies: gathered, then packed by vLLM's own code."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Protocol

import torch


class Rows(Protocol):
    """Which rows of which module's matrix a tensor is (`live_weights.Location`)."""

    @property
    def module(self) -> Any:
        """The module that multiplies by it."""

    @property
    def first(self) -> int:
        """The first row."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""

    @property
    def stacked(self) -> int:
        """Rows of the whole matrix."""


def pack_kept(module: Any) -> None:
    """Have vLLM pack a weight that the module keeps beside its packed copy."""
    module.quant_method.process_weights_after_loading(module)


class Packer:
    """Packs each matrix as soon as all of its rows are written.

    On the thread that asks for it, which has to be the engine's own: vLLM packs there too, and the
    allocator gives the memory of what a packed copy replaces to the next one. Another thread's
    would have to find new pages, which takes half as long as packing does. For the same reason
    layers of one shape share the buffers in which their rows are gathered.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._gathered: dict[int, torch.Tensor] = {}
        self._written = Counter[int]()
        self._spare = defaultdict[tuple[int, ...], list[torch.Tensor]](list)

    def rows(self, location: Rows) -> torch.Tensor:
        """Where to write rows of a weight that the module does not keep."""
        matrix = self._gathered.get(id(location.module))
        if matrix is None:
            shape = (location.stacked, *location.shape[1:])
            spare = self._spare[shape]
            matrix = spare.pop() if spare else torch.empty(shape, dtype=self._dtype)
            self._gathered[id(location.module)] = matrix
        return matrix[location.first : location.first + location.shape[0]]

    def written(self, location: Rows) -> None:
        """Pack a matrix when these rows of it were the last."""
        key = id(location.module)
        self._written[key] += location.shape[0]
        if self._written[key] < location.stacked:
            return
        del self._written[key]
        self._pack(location.module, self._gathered.pop(key, None))

    def require_all(self) -> None:
        """Raise `ValueError` when rows of a matrix were written, but not all of them."""
        if self._written:
            raise ValueError(f"{len(self._written)} matrices were only written in part")

    def _pack(self, module: Any, gathered: torch.Tensor | None) -> None:
        if gathered is None:
            pack_kept(module)
            return
        with torch.no_grad():
            module.weight = torch.nn.Parameter(gathered, requires_grad=False)
            module.quant_method.process_weights_after_loading(module)
        if module.weight.numel() == 0:  # the packed copy has replaced it
            self._spare[tuple(gathered.shape)].append(gathered)
