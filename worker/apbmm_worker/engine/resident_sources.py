"""Source tensors that stay in fast memory, and merges that are computed on the card.

The first merge reads the sources once: onto the card if its free memory holds them all, else into
pinned host memory. From there the next part of a tensor is copied while this one is summed. The
engine takes its share of the card first, so ``gpu_memory_utilization`` decides how much is free:
beside the merged tensor, which is written into the engine's, a merge needs memory for parts only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from pathlib import Path

import torch

from apbmm_common.checkpoint.contents import opened_files, read_into
from apbmm_common.checkpoint.headers import ITEM_BYTES, TensorHeader
from apbmm_worker.merging.arithmetic.tensor_bytes import stored_dtype
from apbmm_worker.merging.arithmetic.weighted_sum import fits_lerp, not_finite, sum_dtype
from apbmm_worker.merging.merge import merged_tensors
from apbmm_worker.merging.planning.plan import TensorPlan, WeightedSum
from apbmm_worker.merging.planning.shards import UNSHARDED, WHOLE, Shard, Shards, plan_of_shard

# Bytes left free beside the sources, for two merged tensors and the allocator's rounding.
_RESERVE = 2 << 30
PART_ELEMENTS = 1 << 24
SLAB_BYTES = 1 << 30
_ALIGNMENT = 512

Key = tuple[Path, int, Shard]
ShardPlan = tuple[TensorPlan, Shard]


class PinnedMemory:
    """Host memory that a card copies from by itself, taken in slabs whose size is a power of two.

    PyTorch rounds the size of all pinned memory up to one: by a third or more for each matrix of
    most models, if each had its own.
    """

    def __init__(self, allocate: Callable[[int], torch.Tensor] | None = None) -> None:
        """``allocate`` makes slabs, by default of PyTorch's pinned memory."""
        self._allocate = allocate or partial(torch.empty, dtype=torch.uint8, pin_memory=True)
        self._slabs: list[torch.Tensor] = []
        """What is left of each."""

    def take(self, size: int) -> torch.Tensor:
        """So many bytes, from the first slab that has them left."""
        number = next((n for n, left in enumerate(self._slabs) if len(left) >= size), None)
        if number is None:
            number = len(self._slabs)
            self._slabs.append(self._allocate(max(SLAB_BYTES, 1 << (size - 1).bit_length())))
        left = self._slabs[number]
        self._slabs[number] = left[-(-size // _ALIGNMENT) * _ALIGNMENT :]
        return left[:size]


class ResidentSources:
    """The source tensors of merges, or the shards of them that one card needs, each read once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_card: bool | None = None
        self._kept: dict[Key, torch.Tensor] = {}
        self._pinned = PinnedMemory()
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def tensors(
        self, plans: Sequence[TensorPlan], shards: Shards = UNSHARDED
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value, on the card, of each planned tensor or of its wanted shard, in order.

        The sums are those of `merge.merged_tensors`. The trial of `hot_load` finds out whether this
        card rounds them alike. Other rules are computed by `merge.merged_tensors`, on the CPU.
        """
        planned = [plan_of_shard(plan, shards.get(plan.name, WHOLE)) for plan in plans]
        sums = [(plan, shard) for plan, shard in planned if isinstance(plan.rule, WeightedSum)]
        sources = {_key(s, shard): s for plan, shard in sums for s in plan.sources}
        if self.on_card is None:
            self.on_card = self._fits(sources)
        with opened_files({source.file for plan in plans for source in plan.sources}) as files:
            self._read(sources, files)
            work = [
                (plan, shard, part) for plan, shard in planned for part in self._parts(plan, shard)
            ]
            ahead = self._fetch(*work[0]) if work else []
            made = torch.empty(0)
            for number, (plan, shard, part) in enumerate(work, 1):
                values = self._arrived(ahead)
                ahead = self._fetch(*work[number]) if number < len(work) else []
                if not isinstance(plan.rule, WeightedSum):
                    for name, value in merged_tensors((plan,), files):
                        yield name, shard.of(value).to(self.device)
                    continue
                if part.start == 0:
                    shape, dtype = shard.shape(tuple(plan.shape)), stored_dtype(plan.dtype)
                    made = torch.empty(shape, dtype=dtype, device=self.device)
                _sum(plan, plan.rule, values, made.view(-1)[part])
                if part.stop >= made.numel():
                    yield plan.name, made

    def _fits(self, sources: dict[Key, TensorHeader]) -> bool:
        if self.device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(self.device)
        needed = sum(
            prod(shard.shape(source.shape)) * ITEM_BYTES[source.dtype]
            for (_, _, shard), source in sources.items()
        )
        return bool(needed + _RESERVE <= free)

    def _read(self, sources: dict[Key, TensorHeader], descriptors: dict[Path, int]) -> None:
        """Read the sources that are not kept yet."""
        for key, source in sources.items():
            if key in self._kept:
                continue
            shard = key[2]
            raw = self._host_memory(source.length, for_copies=shard == WHOLE)
            if source.length:
                memory = memoryview(raw.numpy())
                read_into(descriptors[source.file], memory, source.offset, source.file)
            value = shard.of(raw.view(stored_dtype(source.dtype)).view(source.shape))
            if shard != WHOLE:  # a copy, which does not keep the whole tensor in memory
                own = self._host_memory(value.nbytes, for_copies=True)
                value = own.view(value.dtype).view(value.shape).copy_(value)
            self._kept[key] = value.to(self.device) if self.on_card else value

    def _host_memory(self, size: int, *, for_copies: bool) -> torch.Tensor:
        """So many bytes; pinned where they are kept for copies to the card."""
        if for_copies and self.device.type == "cuda" and not self.on_card:
            return self._pinned.take(size)
        return torch.empty(size, dtype=torch.uint8)

    def _parts(self, plan: TensorPlan, shard: Shard) -> list[slice]:
        """The elements of a plan's sums that are computed at once."""
        if not isinstance(plan.rule, WeightedSum):
            return [slice(0, 0)]
        count = self._kept[_key(plan.sources[0], shard)].numel()
        begins = range(0, max(count, 1), PART_ELEMENTS)
        return [slice(begin, min(begin + PART_ELEMENTS, count)) for begin in begins]

    def _fetch(self, plan: TensorPlan, shard: Shard, part: slice) -> list[torch.Tensor]:
        """Start to copy a part of a plan's sources to the card."""
        if not isinstance(plan.rule, WeightedSum):
            return []
        kept = [self._kept[_key(source, shard)].view(-1)[part] for source in plan.sources]
        if self.on_card:
            return kept
        with self._on_copies():
            return [value.to(self.device, non_blocking=True) for value in kept]

    def _arrived(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        """The values; the current stream waits until they are copied."""
        if self._copies is not None and not self.on_card:
            present = torch.cuda.current_stream(self.device)
            present.wait_stream(self._copies)
            for value in values:
                value.record_stream(present)
        return values

    def _on_copies(self) -> contextlib.AbstractContextManager[object]:
        if self._copies is None:
            return contextlib.nullcontext()
        stream: contextlib.AbstractContextManager[object] = torch.cuda.stream(self._copies)
        return stream


def _key(source: TensorHeader, shard: Shard) -> Key:
    return source.file, source.offset, shard


def _sum(
    plan: TensorPlan, rule: WeightedSum, values: Sequence[torch.Tensor], made: torch.Tensor
) -> None:
    """Fill a part of a merged tensor. Raises `EvaluationError` for a NaN or an infinity."""
    if rule.copied is not None:
        made.copy_(values[rule.copied])
    else:
        weighted = [(v, w) for v, w in zip(values, rule.weights, strict=True) if w]
        if fits_lerp(plan, rule):
            (one, weight), (two, _) = weighted
            torch.lerp(two, one, weight, out=made)
            # lerp takes a difference, which overflows beyond half of the largest number.
            if _is_finite(made):
                return
        wide = sum_dtype(plan)
        total = weighted[0][0].to(wide) * weighted[0][1]
        for value, weight in weighted[1:]:
            total += value.to(wide) * weight
        made.copy_(total)
    if not _is_finite(made):
        raise not_finite(plan)


def _is_finite(values: torch.Tensor) -> bool:
    return not values.is_floating_point() or bool(torch.isfinite(values).all())
