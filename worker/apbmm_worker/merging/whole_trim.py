"""Where TIES' paper cuts: the largest elements of a task vector over all tensors, out of core.

Yadav et al. (2023), "TIES-Merging", keep the top k per cent of the flattened task vector. Two
passes over base and source find exactly so many, by counting bit patterns (`magnitudes`). Of the
elements that are equal to the smallest that stays, the first stay, in the order of the plans and
then by place, whichever thread counts first; their own code keeps all of them, and one more.

Tensors are counted in groups, so that memory stays flat however many there are: 32 groups, less
than 1 MB for each. Only the group in which the equal ones run out is read a third time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from apbmm_worker.merging.methods import Cut, TaskVectors
from apbmm_worker.merging.order_statistics import (
    Counts,
    count_equal,
    joined,
    lower_counts,
    ranked,
    upper_counts,
)
from apbmm_worker.merging.pieces import threads
from apbmm_worker.merging.plan import TensorPlan
from apbmm_worker.merging.task_vectors import Parts
from apbmm_worker.merging.tensor_bytes import opened_files

_GROUPS = 32


def trimmed(plans: Sequence[TensorPlan]) -> tuple[TensorPlan, ...]:
    """The plans with ``cuts`` where their rule trims whole task vectors; others as they are.

    Reads base and sources about twice for each task vector. Raises `SourceError` when a source
    cannot be read.
    """
    rule = next((plan.rule for plan in plans if isinstance(plan.rule, TaskVectors)), None)
    wanted = [plan for plan in plans if plan.rule == rule and plan.elements]
    if rule is None or not rule.trims_whole or not wanted:
        return tuple(plans)
    files = {source.file for plan in wanted for source in plan.sources}
    with opened_files(files) as descriptors, threads() as executor:
        vectors = [
            _cuts(_Vector(wanted, index, descriptors), rule.density, executor)
            for index in range(1, len(wanted[0].sources))
        ]
    cuts = {plan.name: own for plan, *own in zip(wanted, *vectors, strict=True)}
    return tuple(replace(plan, cuts=tuple(cuts.get(plan.name, ()))) for plan in plans)


@dataclass(frozen=True, slots=True)
class _Vector:
    """The task vector of source number ``index``, over all ``plans``."""

    plans: Sequence[TensorPlan]
    index: int
    files: Mapping[Path, int]

    @property
    def elements(self) -> int:
        """Number of elements of all tensors."""
        return sum(plan.elements for plan in self.plans)

    def chunks(self, plans: Sequence[TensorPlan]) -> Iterator[tuple[int, torch.Tensor]]:
        """The chunks of these tensors, one after another."""
        return chain.from_iterable(Parts(plan, self.files).stream(self.index)() for plan in plans)

    def groups(self) -> list[Sequence[TensorPlan]]:
        """The plans in order, in at most `_GROUPS` parts of about as many elements."""
        groups: list[list[TensorPlan]] = [[]]
        room = least = -(-self.elements // _GROUPS)
        for plan in self.plans:
            if room <= 0:
                groups.append([])
                room = least
            groups[-1].append(plan)
            room -= plan.elements
        return list(groups)


def _cuts(vector: _Vector, density: float, executor: Executor) -> list[Cut]:
    """A cut for each tensor; together they take ``int(density * elements)``, and at least one."""
    kept, groups = max(1, int(density * vector.elements)), vector.groups()
    upper = _sum(executor.map(lambda group: upper_counts(vector.chunks(group)), groups))
    high, above = ranked(upper, kept)
    lower = list(
        executor.map(lambda group: lower_counts(vector.chunks(group), [high])[high], groups)
    )
    low, above_low = ranked(_sum(lower), kept - above)
    bits, left = joined(high, low), kept - above - above_low
    found = []
    for group, counts in zip(groups, lower, strict=True):
        # All equal ones of a group stay or none does, but for the one in which they run out.
        runs_out = 0 < left < counts[low]
        for plan in group:
            equals = min(left, plan.elements)
            if runs_out:
                equals = min(left, count_equal(vector.chunks([plan]), bits)) if left else 0
                left -= equals
            found.append(Cut(bits, equals))
        if not runs_out:
            left -= min(left, int(counts[low]))
    return found


def _sum(counts: Iterable[Counts]) -> Counts:
    total: Counts = sum(counts, np.zeros((), dtype=np.int64))
    return total
