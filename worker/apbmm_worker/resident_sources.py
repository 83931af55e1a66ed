"""Sources that stay where a card reads them fastest, and merges computed on the card.

The first merge reads the sources once: onto the card where its free memory holds them all, else
into pinned host memory, from which the copies of the next tensor overlap the sums of this one. Free
is what the engine left, so ``gpu_memory_utilization`` decides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from apbmm_common.checkpoint import TensorHeader
from apbmm_common.errors import EvaluationError
from apbmm_worker.merge import merged_tensors
from apbmm_worker.merge_plan import TensorPlan, WeightedSum
from apbmm_worker.tensor_bytes import opened_files, read_into, stored_dtype
from apbmm_worker.tensor_sums import fits_lerp, sum_dtype

# Left free beside the sources: sums in float32 of one tensor, and what the allocator rounds up.
_RESERVE = 2 << 30

Key = tuple[Path, int]


class ResidentSources:
    """The source tensors of merges, each read once, for one card."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_card: bool | None = None
        self._kept: dict[Key, torch.Tensor] = {}
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def tensors(self, plans: Sequence[TensorPlan]) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value on the card of each planned tensor, in turn.

        The same sums as `merge.merged_tensors` takes; whether a card rounds them alike is for the
        trial at the engine's start to find out. Rules other than sums are computed there.
        """
        sums = [plan for plan in plans if isinstance(plan.rule, WeightedSum)]
        if self.on_card is None:
            self.on_card = self._fits({_key(s): s.length for plan in sums for s in plan.sources})
        files = {source.file for plan in plans for source in plan.sources}
        with opened_files(files) as descriptors:
            self._read({_key(s): s for plan in sums for s in plan.sources}, descriptors)
            ahead = self._fetch(plans[0]) if plans else []
            for number, plan in enumerate(plans):
                values = self._arrived(ahead)
                ahead = self._fetch(plans[number + 1]) if number + 1 < len(plans) else []
                if isinstance(plan.rule, WeightedSum):
                    yield plan.name, _finite(plan, _sum(plan, plan.rule, values))
                else:
                    for name, value in merged_tensors((plan,), descriptors):
                        yield name, value.to(self.device)

    def _fits(self, lengths: dict[Key, int]) -> bool:
        if self.device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(self.device)
        return bool(sum(lengths.values()) + _RESERVE <= free)

    def _read(self, sources: dict[Key, TensorHeader], descriptors: dict[Path, int]) -> None:
        """Read what is not kept yet."""
        for key, source in sources.items():
            if key in self._kept:
                continue
            pinned = self.device.type == "cuda" and not self.on_card
            raw = torch.empty(source.length, dtype=torch.uint8, pin_memory=pinned)
            if source.length:
                memory = memoryview(raw.numpy())
                read_into(descriptors[source.file], memory, source.offset, source.file)
            value = raw.view(stored_dtype(source.dtype)).view(source.shape)
            self._kept[key] = value.to(self.device) if self.on_card else value

    def _fetch(self, plan: TensorPlan) -> list[torch.Tensor]:
        """Start to bring a plan's sources onto the card."""
        if not isinstance(plan.rule, WeightedSum):
            return []
        kept = [self._kept[_key(source)] for source in plan.sources]
        if self.on_card:
            return kept
        with self._on_copies():
            return [value.to(self.device, non_blocking=True) for value in kept]

    def _arrived(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        """The values, once the present stream may read them."""
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


def _key(source: TensorHeader) -> Key:
    return source.file, source.offset


def _sum(plan: TensorPlan, rule: WeightedSum, values: Sequence[torch.Tensor]) -> torch.Tensor:
    dtype = stored_dtype(plan.dtype)
    if rule.copied is not None:
        return values[rule.copied].to(dtype)
    parts = [(v, w) for v, w in zip(values, rule.weights, strict=True) if w]
    if fits_lerp(plan, rule):
        (one, weight), (two, _) = parts
        result = torch.lerp(two, one, weight)
        # It takes a difference, which overflows beyond half of the largest number.
        if bool(torch.isfinite(result).all()):
            return result
    wide = sum_dtype(plan)
    total = parts[0][0].to(wide) * parts[0][1]
    for value, weight in parts[1:]:
        total += value.to(wide) * weight
    return total.to(dtype)


def _finite(plan: TensorPlan, value: torch.Tensor) -> torch.Tensor:
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise EvaluationError(
            f"tensor {plan.name} of the merge holds a NaN or an infinity",
            f"a weight is too large for {plan.dtype}, or a source is damaged",
            kind="vector",
        )
    return value
