"""The layer-wise linear merge of two checkpoints (Eq. 4), out of core.

``W_l = x_l * thinking_l + (1 - x_l) * instruct_l`` for every tensor of layer l. Tensors of no layer
(embeddings, final norm, lm_head), of which the paper says nothing, get the weight mean(x), or
follow one source (`Merge.outside_layers`). With the mean, x = 0 is the instruct model and x = 1
the thinking model in every tensor, bit for bit.

Sums are taken in float32 (in float64 when the result is stored in float32) and rounded once, to
nearest even. Bytes move in chunks through reused buffers, so memory stays flat whatever the size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from apbmm_common.checkpoint import ITEM_BYTES, TensorHeader
from apbmm_common.errors import EvaluationError
from apbmm_common.runfile import Merge
from apbmm_worker.merge_plan import TensorPlan, layer_weights, plan
from apbmm_worker.merged_folder import (
    RECIPE_FILE,
    copy_settings,
    fresh_folder,
    stated_dtype,
    write_index,
    write_json,
    write_tensors,
)
from apbmm_worker.sources import VerifiedSources
from apbmm_worker.tensor_bytes import TORCH_DTYPES, FiniteCheck, opened, read_into

__all__ = ["MergeReport", "TensorPlan", "layer_weights", "materialise", "plan"]

CHUNK_ELEMENTS = 1 << 19  # read and written at once: 1 MB of bfloat16
# Computed at once. Torch spreads larger operations over its threads, which at this size took up to
# ten times as long, and whose number is not ours to set in a process that an engine may share.
BLOCK_ELEMENTS = 1 << 15


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
    progress: Callable[[int, int], None] | None = None,
) -> MergeReport:
    """Write the merge of ``vector`` (one weight in [0, 1] a layer) as a Hugging Face folder.

    Config, tokenizer, chat template and generation config come from the source ``template_from``
    (``thinking`` or ``instruct``); whatever changes the computation was verified to be equal in
    both. The folder ``out`` appears only when complete; an earlier merge there is replaced,
    anything else is left alone. ``progress`` is called with (bytes written, bytes to write), and
    what it raises ends the merge.

    Raises `EvaluationError`, of kind ``vector`` for a bad vector or a tensor that comes out as
    NaN or infinity, ``infrastructure`` for a full disk or a source that has changed.
    """
    start = time.monotonic()
    weights = layer_weights(vector, sources.layers)
    thinking, instruct = (sources.checkpoints[role] for role in ("thinking", "instruct"))
    plans = plan(thinking, instruct, weights, merge)
    total, written = sum(tensor.length for tensor in plans), 0
    recipe = {
        "vector": weights,
        "merge": merge.model_dump(mode="json"),
        "template_from": template_from,
        "digests": sources.digests,
    }
    dtype = stated_dtype(instruct) if merge.dtype == "source" else merge.dtype
    with fresh_folder(out) as folder:
        sources.require_unchanged()
        with opened(thinking, instruct) as files:
            chunks = _Interpolation(files)
            for file, group in groupby(plans, key=lambda tensor: tensor.instruct.file):
                for count in write_tensors(folder / file.name, tuple(group), chunks):
                    written += count
                    if progress is not None:
                        progress(written, total)
        write_index(folder, instruct, plans)
        copy_settings(folder, sources.checkpoints[template_from], dtype)
        write_json(folder / RECIPE_FILE, recipe)
    return MergeReport(time.monotonic() - start, total)


class _Interpolation:
    """Gives the stored bytes of one tensor after another, through buffers that are reused."""

    def __init__(self, files: Mapping[Path, int]) -> None:
        size = CHUNK_ELEMENTS * max(ITEM_BYTES.values())
        self._files = files
        self._raw = [bytearray(size) for _ in range(2)]
        self._wide = [bytearray(BLOCK_ELEMENTS * 8) for _ in range(2)]
        self._stored = bytearray(size)
        self._is_finite = FiniteCheck(size)

    def __call__(self, tensor: TensorPlan) -> Iterator[memoryview]:
        """The chunks of one tensor; each is overwritten by the next."""
        for begin in range(0, tensor.elements, CHUNK_ELEMENTS):
            count = min(CHUNK_ELEMENTS, tensor.elements - begin)
            data = self._chunk(tensor, begin, count)
            if not self._is_finite(data, tensor.dtype):
                raise EvaluationError(
                    f"tensor {tensor.name} of the merge holds a NaN or an infinity",
                    f"a weight is too large for {tensor.dtype}, or a source is damaged",
                    kind="vector",
                )
            yield data

    def _chunk(self, tensor: TensorPlan, begin: int, count: int) -> memoryview:
        # The ends are copied: 0 * w would turn -0.0 into 0.0.
        if tensor.weight in (0.0, 1.0):
            source = tensor.thinking if tensor.weight == 1.0 else tensor.instruct
            data = self._read(0, source, begin, count)
            if source.dtype == tensor.dtype:
                return data
            return self._cast(_values(data, source.dtype), tensor.dtype)
        return self._sum(tensor, begin, count)

    def _sum(self, tensor: TensorPlan, begin: int, count: int) -> memoryview:
        one, two = (
            _values(self._read(slot, source, begin, count), source.dtype).split(BLOCK_ELEMENTS)
            for slot, source in enumerate((tensor.thinking, tensor.instruct))
        )
        stored = torch.frombuffer(self._stored, dtype=TORCH_DTYPES[tensor.dtype], count=count)
        wide = _sum_dtype(tensor)
        first, second = (
            torch.frombuffer(buffer, dtype=wide, count=BLOCK_ELEMENTS) for buffer in self._wide
        )
        # Separate products and a sum, rather than lerp or a fused multiply-add: the same bits on
        # every processor, and those of mergekit in float32.
        for a, b, result in zip(one, two, stored.split(BLOCK_ELEMENTS), strict=True):
            if len(a) < len(first):
                first, second = first[: len(a)], second[: len(a)]
            first.copy_(a).mul_(tensor.weight)
            second.copy_(b).mul_(1.0 - tensor.weight)
            result.copy_(first.add_(second))
        return memoryview(self._stored)[: count * ITEM_BYTES[tensor.dtype]]

    def _cast(self, values: torch.Tensor, dtype: str) -> memoryview:
        stored = torch.frombuffer(self._stored, dtype=TORCH_DTYPES[dtype], count=len(values))
        for block, result in zip(
            values.split(BLOCK_ELEMENTS), stored.split(BLOCK_ELEMENTS), strict=True
        ):
            result.copy_(block)
        return memoryview(self._stored)[: len(values) * ITEM_BYTES[dtype]]

    def _read(self, slot: int, source: TensorHeader, begin: int, count: int) -> memoryview:
        item = ITEM_BYTES[source.dtype]
        data = memoryview(self._raw[slot])[: count * item]
        read_into(self._files[source.file], data, source.offset + begin * item, source.file)
        return data


def _sum_dtype(tensor: TensorPlan) -> torch.dtype:
    """At least twice the precision of the stored dtype (but for float64, which has no wider)."""
    dtypes = {tensor.dtype, tensor.thinking.dtype, tensor.instruct.dtype}
    return torch.float64 if tensor.dtype == "F32" or "F64" in dtypes else torch.float32


def _values(data: memoryview, dtype: str) -> torch.Tensor:
    return torch.frombuffer(data, dtype=TORCH_DTYPES[dtype])
