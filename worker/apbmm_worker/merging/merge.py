"""Merges of checkpoints, out of core: written as a folder, or given tensor by tensor.

What each tensor is made of is planned beforehand (`plan`). Its bytes are computed by
`weighted_sum` or `task_vectors`, in chunks through reused buffers, by a few threads that do not
wait for one another between tensors: memory stays flat whatever the size of the checkpoints, and a
merge takes little longer than a copy. A thread is handed many chunks at a time, because each
handing-over costs about as much as moving a hundred kilobytes does.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from threadpoolctl import threadpool_limits

from apbmm_common.checkpoint.contents import opened, read_ahead
from apbmm_common.checkpoint.headers import ITEM_BYTES
from apbmm_worker.merging.arithmetic import weighted_sum
from apbmm_worker.merging.arithmetic.task_vectors import merged_parts
from apbmm_worker.merging.arithmetic.tensor_bytes import ByteProgress, FileBuffer, stored_dtype
from apbmm_worker.merging.arithmetic.weighted_sum import Summation
from apbmm_worker.merging.folders.folder import (
    RECIPE_FILE,
    copy_settings,
    fresh_folder,
    preallocated,
    stated_dtype,
    write_at,
    write_index,
    write_json,
)
from apbmm_worker.merging.planning.plan import ModelLevelMerge, TensorPlan
from apbmm_worker.merging.sources import VerifiedSources

THREADS = 4  # more do not help: the work is moving bytes through memory
BATCH_BYTES = 1 << 24  # what a thread is handed at once
READ_AHEAD = 2 * THREADS  # batches: the disk reads them while others are computed
AHEAD_BYTES = 1 << 25  # of tensors made ahead: enough to keep all threads busy while one is used

Place = Callable[[TensorPlan], torch.Tensor | None]
"""Where to make a tensor: contiguous, of its shape and stored dtype; None for memory of its own."""


@dataclass(frozen=True)
class MergeReport:
    """``seconds`` of wall clock, and the ``bytes`` of weights written."""

    seconds: float
    bytes: int


class Additions(Protocol):
    """What a folder gets beside a merge."""

    def written(self, tensor: TensorPlan, offset: int, data: memoryview) -> None:
        """Called with each part of each tensor, at ``offset`` bytes in it, from several threads."""

    def finish(self, folder: Path) -> Mapping[str, Any]:
        """Add files to the folder; returns what is added to the recipe."""


def write_merge(
    sources: VerifiedSources,
    plans: Sequence[TensorPlan],
    recipe: Mapping[str, Any],
    template_from: str,
    out: Path,
    progress: ByteProgress | None = None,
    *,
    dtype: str = "source",
    additions: Additions | None = None,
) -> MergeReport:
    """Write the tensors of ``plans`` as a Hugging Face folder.

    Config, tokenizer, chat template and generation config come from the source ``template_from``;
    settings that change the computation were verified to be equal in all sources. ``recipe`` is
    kept beside the weights. The config names ``dtype``, unless it is ``source``. The folder ``out``
    appears only when it is complete, with its ``additions``. An earlier merge there is replaced (at
    the end, where there are additions), and anything else is left alone. ``progress`` is called
    with (bytes written, bytes to write), and an error that it raises ends the merge. Raises
    `EvaluationError`, of kind ``vector`` for a tensor that comes out as NaN or infinity,
    ``infrastructure`` for a full disk or a source that has changed.
    """
    start = time.monotonic()
    total, written = sum(tensor.length for tensor in plans), 0
    with fresh_folder(out, keep_earlier=additions is not None) as folder:
        sources.require_unchanged()
        with opened(*sources.checkpoints.values()) as files, preallocated(folder, plans) as places:
            watch = None if additions is None else additions.written
            for count in _write_tensors(plans, files, places, watch):
                written += count
                if progress is not None:
                    progress(written, total)
        write_index(folder, plans)
        named = stated_dtype_of_merges(sources, plans, dtype)
        copy_settings(folder, sources.checkpoints[template_from], named)
        kept = {**recipe, "template_from": template_from, "digests": sources.digests}
        if additions is not None:
            kept |= additions.finish(folder)
        write_json(folder / RECIPE_FILE, kept)
    return MergeReport(time.monotonic() - start, total)


def stated_dtype_of_merges(
    sources: VerifiedSources, plans: Sequence[TensorPlan], dtype: str
) -> str | None:
    """The dtype that a merge's config names; None if it names none.

    A merge whose ``dtype`` is ``source`` has that of the source that its tensors are stored like.
    """
    if dtype != "source":
        return dtype
    folder = plans[0].layout.file.parent
    return stated_dtype(next(c for c in sources.checkpoints.values() if c.path == folder))


def nowhere(tensor: TensorPlan) -> None:
    """No place: memory of its own."""


def merged_tensors(
    plans: Sequence[TensorPlan], files: Mapping[Path, int], place: Place = nowhere
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of each planned tensor, made where ``place`` says, ahead of their turn.

    Bit for bit what `write_merge` writes. ``files``: the sources' descriptors, from
    `contents.opened`. Raises `EvaluationError` (``vector``) for a NaN or an infinity, and
    `SourceError` when a source cannot be read.
    """
    sums = Summation(files)

    def compute(chunks: Sequence[Chunk], memory: memoryview) -> None:
        for chunk in chunks:
            tensor, rule = chunk.tensor, chunk.tensor.rule
            if isinstance(rule, ModelLevelMerge):
                for offset, data in merged_parts(tensor, rule, files):
                    memory[offset : offset + len(data)] = data
            else:
                sums(tensor, rule, chunk.begin, memory[chunk.offset : chunk.end])

    with threads() as executor:
        pending: deque[_PendingTensor] = deque()
        length = 0
        for tensor in plans:
            value = place(tensor)
            if value is None:
                value = torch.empty(tensor.shape, dtype=stored_dtype(tensor.dtype))
            memory = memoryview(value.view(-1).view(torch.uint8).numpy())
            work = [
                executor.submit(compute, batch, memory) for batch in _batches(chunks_of(tensor))
            ]
            pending.append(_PendingTensor(tensor, value, work))
            length += tensor.length
            while length > AHEAD_BYTES + pending[0].tensor.length:
                length -= pending[0].tensor.length
                yield pending.popleft().finished()
        while pending:
            yield pending.popleft().finished()


@dataclass(frozen=True, slots=True)
class _PendingTensor:
    """A tensor that threads are computing into ``value``."""

    tensor: TensorPlan
    value: torch.Tensor
    work: list[Future[None]]

    def finished(self) -> tuple[str, torch.Tensor]:
        """Wait until all of it is computed; its name and value."""
        for future in self.work:
            future.result()
        return self.tensor.name, self.value


def _write_tensors(
    plans: Sequence[TensorPlan],
    files: Mapping[Path, int],
    places: Mapping[str, tuple[int, int]],
    watch: Callable[[TensorPlan, int, memoryview], None] | None,
) -> Iterator[int]:
    """Compute and write all tensors; yields the bytes of each batch that has been written.

    ``watch`` sees every part (`Additions.written`).
    """
    sums, own = Summation(files), _ThreadBuffer()
    # One element may reach beyond the chunk in which it begins.
    longest = weighted_sum.CHUNK_BYTES + max(ITEM_BYTES.values())
    batches = list(_batches(_file_chunks(plans, places)))

    def write(number: int) -> int:
        for later in batches[number + READ_AHEAD : number + READ_AHEAD + 1]:
            _read_sources_ahead(later, files)
        batch = batches[number]
        for adjacent in batch:
            memory, end = own.buffer.at(adjacent.offset, longest), 0
            for chunk in adjacent.chunks:
                tensor, rule = chunk.tensor, chunk.tensor.rule
                if isinstance(rule, ModelLevelMerge):
                    for offset, data in merged_parts(tensor, rule, files):
                        write_at(adjacent.descriptor, data, adjacent.offset + offset)
                        if watch is not None:
                            watch(tensor, offset, data)
                else:
                    begin, end = end, end + chunk.length
                    sums(tensor, rule, chunk.begin, memory[begin:end])
                    if watch is not None:
                        watch(tensor, chunk.offset, memory[begin:end])
            write_at(adjacent.descriptor, memory[:end], adjacent.offset)
        return sum(adjacent.length for adjacent in batch)

    with threads() as executor:
        yield from executor.map(write, range(len(batches)))


def _read_sources_ahead(batch: Iterable[FileChunks], files: Mapping[Path, int]) -> None:
    """Have the disk read what weighted sums of a batch are made of."""
    for chunk in (chunk for adjacent in batch for chunk in adjacent.chunks):
        rule, sources = chunk.tensor.rule, chunk.tensor.sources
        weights = () if isinstance(rule, ModelLevelMerge) else rule.weights
        for source, weight in zip(sources, weights, strict=False):
            if weight:
                item = ITEM_BYTES[source.dtype]
                begin, length = chunk.begin * item, (chunk.stop - chunk.begin) * item
                read_ahead(files[source.file], source.offset + begin, length)


class _ThreadBuffer(threading.local):
    """Memory for the bytes of one write; each thread has its own."""

    def __init__(self) -> None:
        self.buffer = FileBuffer()


# ---- work for threads ----


@dataclass(frozen=True, slots=True)
class Chunk:
    """A tensor's elements from ``begin`` to before ``stop``, computed at once."""

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
        """Number of its bytes in the stored tensor."""
        return self.end - self.offset


@dataclass(frozen=True, slots=True)
class FileChunks:
    """Adjacent ``chunks`` of the file with this ``descriptor``, the first of them at ``offset``.

    They are computed into one buffer and written at once. A tensor made from task vectors is alone
    in one, and is written in parts.
    """

    descriptor: int
    offset: int
    chunks: tuple[Chunk, ...]

    @property
    def length(self) -> int:
        """Number of bytes of all chunks."""
        return sum(chunk.length for chunk in self.chunks)


Work = TypeVar("Work", Chunk, FileChunks)


def chunks_of(tensor: TensorPlan, place: int = 0) -> Iterator[Chunk]:
    """The chunks of a weighted sum; the whole of a tensor made from task vectors.

    Chunks end where the file, in which the tensor begins at ``place``, has whole multiples of
    `weighted_sum.CHUNK_BYTES`: the kernel then keeps the file in large blocks, with less work.
    """
    if isinstance(tensor.rule, ModelLevelMerge):
        yield Chunk(tensor, 0, tensor.elements)
        return
    item, size = ITEM_BYTES[tensor.dtype], weighted_sum.CHUNK_BYTES
    begin = 0
    while begin < tensor.elements:
        room = size - (place + begin * item) % size
        stop = min(begin + max(room // item, 1), tensor.elements)
        yield Chunk(tensor, begin, stop)
        begin = stop


def _file_chunks(
    plans: Iterable[TensorPlan], places: Mapping[str, tuple[int, int]]
) -> Iterator[FileChunks]:
    """All chunks, in order; ``places``: descriptor and offset of each tensor, by name."""
    for (descriptor, _, _), group in groupby(_placed(plans, places), key=itemgetter(0)):
        placed = tuple(group)
        yield FileChunks(descriptor, placed[0][1], tuple(chunk for _, _, chunk in placed))


def _placed(
    plans: Iterable[TensorPlan], places: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[tuple[int, int, str], int, Chunk]]:
    """What chunks of one write have in common, the chunk's offset in the file, and the chunk."""
    for tensor in plans:
        descriptor, place = places[tensor.name]
        alone = tensor.name if isinstance(tensor.rule, ModelLevelMerge) else ""
        for chunk in chunks_of(tensor, place):
            offset = place + chunk.offset
            yield (descriptor, offset // weighted_sum.CHUNK_BYTES, alone), offset, chunk


def _batches(work: Iterable[Work]) -> Iterator[list[Work]]:
    """Lists of about `BATCH_BYTES`, one for each turn of a thread."""
    batch: list[Work] = []
    length = 0
    for item in work:
        batch.append(item)
        length += item.length
        if length >= BATCH_BYTES:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _compute_alone() -> None:
    """Keep torch from spreading what this thread computes over threads of its own.

    The number of threads that other threads use, such as an engine's in this process, stays.
    """
    torch.get_num_threads()  # which settles this thread's number the first time that it is asked
    threadpool_limits(1, "openmp")


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """A few threads; on an error they finish the batch in hand and drop the rest."""
    executor = ThreadPoolExecutor(
        min(THREADS, len(os.sched_getaffinity(0))), "merge", initializer=_compute_alone
    )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
