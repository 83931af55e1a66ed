"""How a merge is cut into work for threads: pieces of tensors, and adjacent ones as one write.

A thread is handed many at a time, because each handing-over costs about as much as moving a hundred
kilobytes does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

from apbmm_common.checkpoint.headers import ITEM_BYTES
from apbmm_worker.merging import tensor_sums
from apbmm_worker.merging.methods import TaskVectors
from apbmm_worker.merging.plan import TensorPlan

THREADS = 4  # more do not help: the work is moving bytes through memory
SHARE_BYTES = 1 << 24  # what a thread is handed at once


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor's elements from ``begin`` to before ``stop``."""

    tensor: TensorPlan
    begin: int
    stop: int

    @property
    def offset(self) -> int:
        """Where its bytes begin in the stored tensor."""
        return self.begin * ITEM_BYTES[self.tensor.dtype]

    @property
    def end(self) -> int:
        """Where its bytes end in the stored tensor."""
        return self.stop * ITEM_BYTES[self.tensor.dtype]

    @property
    def length(self) -> int:
        """Bytes of it."""
        return self.end - self.offset


@dataclass(frozen=True, slots=True)
class Write:
    """Adjacent ``pieces`` for the file with this ``descriptor``, the first of them at ``offset``.

    A tensor made from task vectors is alone in one, and is written in parts.
    """

    descriptor: int
    offset: int
    pieces: tuple[Piece, ...]

    @property
    def length(self) -> int:
        """Bytes of all pieces."""
        return sum(piece.length for piece in self.pieces)


Part = TypeVar("Part", Piece, Write)


def pieces(tensor: TensorPlan, place: int = 0) -> Iterator[Piece]:
    """Pieces of a sum; the whole of a tensor made from task vectors, where all of it matters.

    They end where the file in which the tensor begins at ``place`` has whole chunks: the kernel
    keeps what is written so in large blocks, with less work.
    """
    if isinstance(tensor.rule, TaskVectors):
        yield Piece(tensor, 0, tensor.elements)
        return
    item, chunk = ITEM_BYTES[tensor.dtype], tensor_sums.CHUNK_BYTES
    begin = 0
    while begin < tensor.elements:
        room = chunk - (place + begin * item) % chunk
        stop = min(begin + max(room // item, 1), tensor.elements)
        yield Piece(tensor, begin, stop)
        begin = stop


def writes(plans: Iterable[TensorPlan], places: Mapping[str, tuple[int, int]]) -> Iterator[Write]:
    """All pieces, in order; ``places``: descriptor and offset of each tensor, by name."""
    for (descriptor, _, _), group in groupby(_placed(plans, places), key=itemgetter(0)):
        placed = tuple(group)
        yield Write(descriptor, placed[0][1], tuple(piece for _, _, piece in placed))


def _placed(
    plans: Iterable[TensorPlan], places: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[tuple[int, int, str], int, Piece]]:
    """What a piece has in common with those of the same write, its offset in the file, and it."""
    for tensor in plans:
        descriptor, place = places[tensor.name]
        alone = tensor.name if isinstance(tensor.rule, TaskVectors) else ""
        for piece in pieces(tensor, place):
            offset = place + piece.offset
            yield (descriptor, offset // tensor_sums.CHUNK_BYTES, alone), offset, piece


def shares(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """``parts`` in lists of about `SHARE_BYTES`, one for each turn of a thread."""
    share: list[Part] = []
    length = 0
    for part in parts:
        share.append(part)
        length += part.length
        if length >= SHARE_BYTES:
            yield share
            share, length = [], 0
    if share:
        yield share


def _compute_alone() -> None:
    """Keep torch from spreading what this thread computes over threads of its own.

    Every other thread's number of them stays, an engine's in the same process for one.
    """
    torch.get_num_threads()  # which settles this thread's number the first time that it is asked
    threadpool_limits(1, "openmp")


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """A few threads; on an error they finish what is in hand and drop the rest."""
    executor = ThreadPoolExecutor(
        min(THREADS, len(os.sched_getaffinity(0))), "merge", initializer=_compute_alone
    )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
