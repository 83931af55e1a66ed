"""Merges of checkpoints, out of core: written as a folder, or given tensor by tensor.

The layer-wise linear merge (Eq. 4) is ``W_l = x_l * thinking_l + (1 - x_l) * instruct_l`` for every
tensor of layer l. Tensors of no layer (embeddings, final norm, lm_head), of which the paper says
nothing, get the weight mean(x), or follow one source (`Merge.outside_layers`). With the mean, x = 0
is the instruct model and x = 1 the thinking model in every tensor, bit for bit. Other rules come
as plans of their own (`merge_plan`).

Bytes move in chunks through reused buffers, by a few threads that do not wait for one another
between tensors, so that memory stays flat whatever the size and a merge takes little longer than a
copy.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apbmm_common.checkpoint.headers import ITEM_BYTES
from apbmm_common.run_file.load import Merge
from apbmm_worker.merging import tensor_sums
from apbmm_worker.merging.folder import (
    RECIPE_FILE,
    copy_settings,
    fresh_folder,
    preallocated,
    stated_dtype,
    write_at,
    write_index,
    write_json,
)
from apbmm_worker.merging.methods import TaskVectors
from apbmm_worker.merging.pieces import Piece, Write, pieces, shares, threads, writes
from apbmm_worker.merging.plan import TensorPlan, layer_weights, plan
from apbmm_worker.merging.sources import VerifiedSources
from apbmm_worker.merging.task_vectors import merged_chunks
from apbmm_worker.merging.tensor_bytes import FileBuffer, opened, stored_dtype
from apbmm_worker.merging.tensor_sums import Summation

__all__ = [
    "MergeReport",
    "Place",
    "TensorPlan",
    "layer_weights",
    "materialise",
    "merged_tensors",
    "nowhere",
    "plan",
    "write_merge",
]

# Bytes of tensors that are made ahead: enough to keep all threads busy while one is used.
AHEAD = 1 << 25

Progress = Callable[[int, int], None]
Place = Callable[[TensorPlan], torch.Tensor | None]
"""Where to make a tensor: contiguous, of its shape and stored dtype; None for memory of its own."""


@dataclass(frozen=True)
class MergeReport:
    """``seconds`` of wall clock, and the ``bytes`` of weights written."""

    seconds: float
    bytes: int


def materialise(
    sources: VerifiedSources,
    vector: Sequence[float],
    merge: Merge,
    template_from: str,
    out: Path,
    progress: Progress | None = None,
) -> MergeReport:
    """Write the layer-wise merge of ``vector`` (one weight in [0, 1] a layer) as a folder.

    Everything else is as in `write_merge`. Raises `EvaluationError`, of kind ``vector`` for a bad
    vector or a tensor that comes out as NaN or infinity, ``infrastructure`` for a full disk or a
    source that has changed.
    """
    weights = layer_weights(vector, sources.layers)
    thinking, instruct = (sources.checkpoints[role] for role in ("thinking", "instruct"))
    plans = plan(thinking, instruct, weights, merge)
    recipe = {"vector": weights, "merge": merge.model_dump(mode="json")}
    return write_merge(sources, plans, recipe, template_from, out, progress, dtype=merge.dtype)


def write_merge(
    sources: VerifiedSources,
    plans: Sequence[TensorPlan],
    recipe: Mapping[str, Any],
    template_from: str,
    out: Path,
    progress: Progress | None = None,
    *,
    dtype: str = "source",
) -> MergeReport:
    """Write the tensors of ``plans`` as a Hugging Face folder.

    Config, tokenizer, chat template and generation config come from the source ``template_from``;
    whatever changes the computation was verified to be equal in all. ``recipe`` is kept beside the
    weights; ``dtype``, unless it is ``source``, is what the config names. The folder ``out``
    appears only when complete; an earlier merge there is replaced, anything else is left alone.
    ``progress`` is called with (bytes written, bytes to write), and what it raises ends the merge.
    Raises `EvaluationError` as `materialise` does.
    """
    start = time.monotonic()
    total, written = sum(tensor.length for tensor in plans), 0
    with fresh_folder(out) as folder:
        sources.require_unchanged()
        with opened(*sources.checkpoints.values()) as files, preallocated(folder, plans) as places:
            for count in _write_tensors(plans, files, places):
                written += count
                if progress is not None:
                    progress(written, total)
        write_index(folder, plans)
        layout = next(
            checkpoint
            for checkpoint in sources.checkpoints.values()
            if checkpoint.path == plans[0].layout.file.parent
        )
        named = stated_dtype(layout) if dtype == "source" else dtype
        copy_settings(folder, sources.checkpoints[template_from], named)
        more = {"template_from": template_from, "digests": sources.digests}
        write_json(folder / RECIPE_FILE, {**recipe, **more})
    return MergeReport(time.monotonic() - start, total)


def nowhere(tensor: TensorPlan) -> None:
    """No place: memory of its own."""


def merged_tensors(
    plans: Sequence[TensorPlan], files: Mapping[Path, int], place: Place = nowhere
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of each planned tensor, made where ``place`` says, ahead of their turn.

    Bit for bit what `write_merge` writes. ``files``: the sources' descriptors, from
    `tensor_bytes.opened`. Raises `EvaluationError` (``vector``) for a NaN or an infinity, and
    `SourceError` when a source cannot be read.
    """
    sums = Summation(files)

    def make(share: Sequence[Piece], memory: memoryview) -> None:
        for piece in share:
            if isinstance(piece.tensor.rule, TaskVectors):
                for offset, data in merged_chunks(piece.tensor, piece.tensor.rule, files):
                    memory[offset : offset + len(data)] = data
            else:
                sums(piece.tensor, piece.tensor.rule, piece.begin, memory[piece.offset : piece.end])

    with threads() as executor:
        making: deque[_Making] = deque()
        length = 0
        for tensor in plans:
            value = place(tensor)
            if value is None:
                value = torch.empty(tensor.shape, dtype=stored_dtype(tensor.dtype))
            memory = memoryview(value.view(-1).view(torch.uint8).numpy())
            parts = [executor.submit(make, share, memory) for share in shares(pieces(tensor))]
            making.append(_Making(tensor, value, parts))
            length += tensor.length
            while length > AHEAD + making[0].tensor.length:
                length -= making[0].tensor.length
                yield making.popleft().made()
        while making:
            yield making.popleft().made()


@dataclass(frozen=True, slots=True)
class _Making:
    """A tensor in the hands of the threads."""

    tensor: TensorPlan
    value: torch.Tensor
    parts: list[Future[None]]

    def made(self) -> tuple[str, torch.Tensor]:
        """Its name and value, when all of it is there."""
        for part in self.parts:
            part.result()
        return self.tensor.name, self.value


def _write_tensors(
    plans: Sequence[TensorPlan], files: Mapping[Path, int], places: Mapping[str, tuple[int, int]]
) -> Iterator[int]:
    """Compute and write all tensors; yields the bytes of each share that has been written."""
    sums, made = Summation(files), _Made()
    # One element may reach beyond the chunk in which it begins.
    longest = tensor_sums.CHUNK_BYTES + max(ITEM_BYTES.values())

    def write(share: Sequence[Write]) -> int:
        for adjacent in share:
            memory, end = made.buffer.at(adjacent.offset, longest), 0
            for piece in adjacent.pieces:
                tensor, rule = piece.tensor, piece.tensor.rule
                if isinstance(rule, TaskVectors):
                    for offset, data in merged_chunks(tensor, rule, files):
                        write_at(adjacent.descriptor, data, adjacent.offset + offset)
                else:
                    begin, end = end, end + piece.length
                    sums(tensor, rule, piece.begin, memory[begin:end])
            write_at(adjacent.descriptor, memory[:end], adjacent.offset)
        return sum(adjacent.length for adjacent in share)

    with threads() as executor:
        yield from executor.map(write, shares(writes(plans, places)))


class _Made(threading.local):
    """What is written at once; each thread has its own memory for it."""

    def __init__(self) -> None:
        self.buffer = FileBuffer()
