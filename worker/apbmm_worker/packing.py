"""Matrices that vLLM replaces by packed copies: gathered in a buffer, packed by vLLM's own code."""

from __future__ import annotations

import threading
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, Self

import torch

_IN_FLIGHT = 2


class Rows(Protocol):
    """Which rows of which module's matrix a tensor is (`live_weights.Home`)."""

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


class Matrix:
    """One module's matrix on its way: rows come in tensor by tensor."""

    def __init__(self, module: Any, buffer: torch.Tensor) -> None:
        self.module = module
        self.buffer = buffer
        self._rows = 0

    def add(self, rows: Rows, tensor: torch.Tensor) -> bool:
        """Take one tensor in; True when it was the last."""
        self.buffer[rows.first : rows.first + rows.shape[0]].copy_(tensor)
        self._rows += rows.shape[0]
        return self._rows == len(self.buffer)


class Packer:
    """Packs complete matrices on a thread; at its end all are packed, or the first error is raised.

    Fresh memory costs more than what is done with it, so layers of one shape share buffers.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._spare = defaultdict[tuple[int, ...], list[torch.Tensor]](list)
        self._room = threading.Semaphore(_IN_FLIGHT)
        self._thread = ThreadPoolExecutor(1, "pack")
        self._packing: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if error is None:
            for packed in self._packing:
                packed.result()

    def matrix(self, rows: Rows) -> Matrix:
        """A matrix to fill."""
        shape = (rows.stacked, *rows.shape[1:])
        spare = self._spare[shape]
        buffer = spare.pop() if spare else torch.empty(shape, dtype=self._dtype)
        return Matrix(rows.module, buffer)

    def pack(self, matrix: Matrix) -> None:
        """Have a complete matrix packed, soon."""
        self._room.acquire()
        self._packing.append(self._thread.submit(self._pack, matrix))

    def _pack(self, matrix: Matrix) -> None:
        try:
            module = matrix.module
            with torch.no_grad():
                module.weight = torch.nn.Parameter(matrix.buffer, requires_grad=False)
                module.quant_method.process_weights_after_loading(module)
            if module.weight.numel() == 0:  # the packed copy has replaced it
                self._spare[tuple(matrix.buffer.shape)].append(matrix.buffer)
        finally:
            self._room.release()
