"""What becomes of every tensor of a merge; pure, reads no weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from apbmm_common.checkpoint.headers import ITEM_BYTES, Checkpoint, TensorHeader, layer_of
from apbmm_common.checkpoint.tensor_groups import optional_tensors
from apbmm_common.run_file.load import Merge
from apbmm_worker.merging.methods import Cut, TaskVectors
from apbmm_worker.merging.source_weights import (
    Row,
    SourceWeights,
    layer_weights,
    outside_rows,
    own_rows,
    pair_weights,
    total,
)

__all__ = ["TensorPlan", "WeightedSum", "layer_weights", "plan", "plan_sum", "plan_task_vectors"]

NOTHING: Mapping[str, float] = MappingProxyType({})
_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """The rule ``sum_i weights[i] * source_i``."""

    weights: tuple[float, ...]

    @property
    def copied(self) -> int | None:
        """Which source the sum is, when it is one of them: 0 * w would turn -0.0 into 0.0."""
        nonzero = [index for index, weight in enumerate(self.weights) if weight]
        if len(nonzero) == 1 and self.weights[nonzero[0]] == 1.0:
            return nonzero[0]
        return None


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """How one tensor is made of the same tensor of several ``sources``.

    ``layout`` is the source's tensor that lends name, shape and file name: the last source's, which
    for two sources is the instruct model's. ``dtype`` is the stored one. With `TaskVectors` the
    first source is the base, and a rule that trims whole task vectors has ``cuts``, one for each
    other source (`whole_trim.trimmed`).
    """

    layout: TensorHeader
    sources: tuple[TensorHeader, ...]
    rule: WeightedSum | TaskVectors
    dtype: str
    cuts: tuple[Cut, ...] = ()

    @property
    def name(self) -> str:
        """The tensor's name, the same in all sources."""
        return self.layout.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape, the same in all sources."""
        return self.layout.shape

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.layout.shape)

    @property
    def length(self) -> int:
        """Bytes of the stored tensor."""
        return self.elements * ITEM_BYTES[self.dtype]

    def rows(self, begin: int, count: int) -> TensorPlan:
        """The plan of these rows alone; for a sum, where none depends on others."""
        sources = tuple(_rows(source, begin, count) for source in self.sources)
        return replace(self, layout=_rows(self.layout, begin, count), sources=sources)


def plan(
    thinking: Checkpoint,
    instruct: Checkpoint,
    weights: Sequence[float],
    merge: Merge,
    own: Mapping[str, float] = NOTHING,
) -> tuple[TensorPlan, ...]:
    """The layer-wise merge of two sources (Eq. 4), in the order of the instruct model's files.

    ``weights``: the thinking model's, one for each layer (`layer_weights`). A tensor of no layer
    gets mean(weights), or follows the source that ``merge.outside_layers`` names, or gets the
    weight of its group in ``own`` (`outside_layers.outside_group`) if that says ``own``.
    """
    sources = {"thinking": thinking, "instruct": instruct}
    chosen = pair_weights(weights)
    rule: str | Mapping[str, Row] = merge.outside_layers
    if rule == "own":
        rule = own_rows(own)
    outside = outside_rows(rule, tuple(sources), chosen.layers)
    return plan_sum(sources, SourceWeights(chosen.layers, outside), merge.dtype)


def plan_sum(
    sources: Mapping[str, Checkpoint], weights: SourceWeights, dtype: str = "source"
) -> tuple[TensorPlan, ...]:
    """A weighted sum of any number of sources, in the order of the last source's files.

    The stored dtype is the last source's own for each tensor, unless ``dtype`` names one. Integers
    and booleans, which verification found equal, are copied. `optional_tensors` are left out.
    """
    checkpoints = tuple(sources.values())
    return tuple(
        TensorPlan(
            layout,
            tuple(checkpoint.tensors[layout.name] for checkpoint in checkpoints),
            WeightedSum(weights.of(layout.name)),
            _STORED.get(dtype, layout.dtype),
        )
        if layout.is_float
        else _copy(layout)
        for layout in _kept(checkpoints, checkpoints[-1])
    )


def plan_task_vectors(
    sources: Mapping[str, Checkpoint],
    base: Checkpoint,
    rule: TaskVectors,
    outside_layers: str = "mean",
    dtype: str = "source",
) -> tuple[TensorPlan, ...]:
    """``base + weight * Theta(task vectors)`` for every tensor, in the last source's file order.

    A source that is the base has a task vector of zeros and is left out. Tensors of no layer are
    merged like any other, unless ``outside_layers`` names a source (or ``base``) to follow. Stored
    dtypes, integers and optional tensors are as in `plan_sum`. Where the rule trims whole task
    vectors, the plans want `whole_trim.trimmed`, which reads them. Raises `EvaluationError` for
    weights that cannot be summed.
    """
    last = list(sources.values())[-1]
    moved = tuple(c for c in sources.values() if c.path.resolve() != base.path.resolve())
    followed = {**sources, "base": base}.get(outside_layers)
    plans = []
    for layout in _kept((base, *sources.values()), last):
        name = layout.name
        if not layout.is_float:
            plans.append(_copy(layout))
            continue
        stored = _STORED.get(dtype, layout.dtype)
        if followed is not None and layer_of(name) is None:
            plans.append(TensorPlan(layout, (followed.tensors[name],), WeightedSum((1.0,)), stored))
            continue
        tensors = tuple(checkpoint.tensors[name] for checkpoint in (base, *moved))
        copied = not moved or rule.weight == 0.0
        chosen: WeightedSum | TaskVectors = WeightedSum((1.0,)) if copied else rule
        if not copied and rule.theta.keeps == "all":  # the same sum, and cheaper
            own = (rule.weight,) * len(moved)
            chosen = WeightedSum((1.0 - total(own), *own))
        plans.append(TensorPlan(layout, tensors[:1] if copied else tensors, chosen, stored))
    return tuple(plans)


def copied(tensor: TensorPlan) -> TensorPlan:
    """The plan that takes a tensor from the last source alone; its stored dtype stays."""
    return replace(tensor, sources=(tensor.layout,), rule=WeightedSum((1.0,)), cuts=())


def _copy(layout: TensorHeader) -> TensorPlan:
    return TensorPlan(layout, (layout,), WeightedSum((1.0,)), layout.dtype)


def _kept(checkpoints: Sequence[Checkpoint], last: Checkpoint) -> list[TensorHeader]:
    left_out = optional_tensors(checkpoints)
    return [tensor for name, tensor in last.tensors.items() if name not in left_out]


def _rows(header: TensorHeader, begin: int, count: int) -> TensorHeader:
    row = header.length // max(header.shape[0], 1)
    return replace(
        header,
        shape=(count, *header.shape[1:]),
        offset=header.offset + begin * row,
        length=count * row,
    )
