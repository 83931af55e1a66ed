"""Source tensors that stay in fast memory, and merges that are computed on the card.

The first merge reads the sources once: onto the card if its free memory holds them all, else into
pinned host memory. From there the next tensor is copied while this one is summed. The engine takes
its share of the card first, so ``gpu_memory_utilization`` decides how much is free.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
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

# Bytes left free beside the sources, for float32 sums of one tensor and the allocator's rounding.
_RESERVE = 2 << 30

Key = tuple[Path, int, Shard]
ShardPlan = tuple[TensorPlan, Shard]


class ResidentSources:
    """The source tensors of merges, or the shards of them that one card needs, each read once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_card: bool | None = None
        self._kept: dict[Key, torch.Tensor] = {}
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
            ahead = self._fetch(planned[0]) if planned else []
            for number, (plan, shard) in enumerate(planned):
                values = self._arrived(ahead)
                ahead = self._fetch(planned[number + 1]) if number + 1 < len(planned) else []
                if isinstance(plan.rule, WeightedSum):
                    yield plan.name, _finite(plan, _sum(plan, plan.rule, values))
                else:
                    for name, value in merged_tensors((plan,), files):
                        yield name, shard.of(value).to(self.device)

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
            pinned = self.device.type == "cuda" and not self.on_card
            raw = torch.empty(
                source.length, dtype=torch.uint8, pin_memory=pinned and shard == WHOLE
            )
            if source.length:
                memory = memoryview(raw.numpy())
                read_into(descriptors[source.file], memory, source.offset, source.file)
            value = shard.of(raw.view(stored_dtype(source.dtype)).view(source.shape))
            if shard != WHOLE:  # a copy, which does not keep the whole tensor in memory
                value = torch.empty(value.shape, dtype=value.dtype, pin_memory=pinned).copy_(value)
            self._kept[key] = value.to(self.device) if self.on_card else value

    def _fetch(self, wanted: ShardPlan) -> list[torch.Tensor]:
        """Start to copy a plan's sources to the card."""
        plan, shard = wanted
        if not isinstance(plan.rule, WeightedSum):
            return []
        kept = [self._kept[_key(source, shard)] for source in plan.sources]
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


def _sum(plan: TensorPlan, rule: WeightedSum, values: Sequence[torch.Tensor]) -> torch.Tensor:
    dtype = stored_dtype(plan.dtype)
    if rule.copied is not None:
        return values[rule.copied].to(dtype)
    weighted = [(v, w) for v, w in zip(values, rule.weights, strict=True) if w]
    if fits_lerp(plan, rule):
        (one, weight), (two, _) = weighted
        result = torch.lerp(two, one, weight)
        # lerp takes a difference, which overflows beyond half of the largest number.
        if bool(torch.isfinite(result).all()):
            return result
    wide = sum_dtype(plan)
    total = weighted[0][0].to(wide) * weighted[0][1]
    for value, weight in weighted[1:]:
        total += value.to(wide) * weight
    return total.to(dtype)


def _finite(plan: TensorPlan, value: torch.Tensor) -> torch.Tensor:
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise not_finite(plan)
    return value
