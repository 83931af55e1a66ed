"""How every tensor of a merge is made of the sources' tensors; pure, reads no weights.

A plan has one `TensorPlan` for each tensor, with one of two rules: a `WeightedSum` of the sources,
which the layer-wise merge is (Eq. 4), or a `ModelLevelMerge` of task vectors (Experiment 2).
`weighted_sum` and `task_vectors` compute them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from apbmm_common.checkpoint.headers import (
    DTYPE_CODES,
    ITEM_BYTES,
    Checkpoint,
    TensorHeader,
    layer_of,
    prediction_tensors,
    tower_tensors,
)
from apbmm_common.checkpoint.tensor_groups import optional_tensors
from apbmm_common.errors import EvaluationError
from apbmm_common.merge_methods import METHODS
from apbmm_worker.merging.planning.source_weights import SourceWeights, total


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """The rule ``sum_i weights[i] * source_i``."""

    weights: tuple[float, ...]

    @property
    def copied(self) -> int | None:
        """The number of the source that the sum equals; None if it is a sum of several.

        Such a source is copied, because 0 * w would turn its -0.0 into 0.0.
        """
        nonzero = [index for index, weight in enumerate(self.weights) if weight]
        if len(nonzero) == 1 and self.weights[nonzero[0]] == 1.0:
            return nonzero[0]
        return None


@dataclass(frozen=True, slots=True)
class ModelLevelMerge:
    """The rule ``base + weight * merge(task vectors)`` of a method in `merge_methods`.

    ``weight`` is the paper's alpha (mergekit's ``lambda``); ``parameters`` has the value of every
    parameter of the method, and may be given without those that keep their defaults; ``seed``
    decides what the random methods draw. Raises `EvaluationError` (``vector``) for a method or a
    value that cannot be; the text begins with the setting's name.
    """

    method: str
    weight: float
    parameters: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        method = METHODS.get(self.method)
        if method is None:
            raise EvaluationError(
                f"{self.method} is no model-level method",
                f"one of {', '.join(METHODS)}",
                kind="vector",
            )
        if not math.isfinite(self.weight):
            raise EvaluationError(f"weight is {self.weight}, not a finite number", kind="vector")
        for fault in method.faults(self.parameters):
            raise EvaluationError(fault, kind="vector")
        object.__setattr__(self, "parameters", method.complete(self.parameters))

    @property
    def recipe(self) -> dict[str, float | str]:
        """What to keep beside the weights."""
        return {
            "method": self.method,
            "weight": self.weight,
            **self.parameters,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """How one tensor is made of the tensors of the same name in several ``sources``.

    ``layout`` is the tensor whose name, shape and file name the result gets: the last source's,
    which of a run's sources is the anchor. ``dtype`` is the stored one. With a
    `ModelLevelMerge` the first source is the base.
    """

    layout: TensorHeader
    sources: tuple[TensorHeader, ...]
    rule: WeightedSum | ModelLevelMerge
    dtype: str

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
        """The plan of these rows alone; for a weighted sum, whose rows do not depend on others."""
        sources = tuple(_rows(source, begin, count) for source in self.sources)
        return replace(self, layout=_rows(self.layout, begin, count), sources=sources)


def plan_sum(
    sources: Mapping[str, Checkpoint], weights: SourceWeights, dtype: str = "source"
) -> tuple[TensorPlan, ...]:
    """A weighted sum of any number of sources (Eq. 4), in the order of the last source's files.

    The stored dtype is the last source's own for each tensor, unless ``dtype`` names one. Integers
    and booleans, which verification found equal, are copied, and so are the last source's
    `tower_tensors`. `optional_tensors` are left out.
    """
    checkpoints = tuple(sources.values())
    towers = tower_tensors(checkpoints[-1])
    return tuple(
        TensorPlan(
            layout,
            tuple(checkpoint.tensors[layout.name] for checkpoint in checkpoints),
            WeightedSum(weights.of(layout.name)),
            DTYPE_CODES.get(dtype, layout.dtype),
        )
        if layout.is_float and layout.name not in towers
        else _copy(layout)
        for layout in _kept(checkpoints, checkpoints[-1])
    )


def plan_task_vectors(
    sources: Mapping[str, Checkpoint],
    base: Checkpoint,
    rule: ModelLevelMerge,
    outside_layers: str = "mean",
    dtype: str = "source",
) -> tuple[TensorPlan, ...]:
    """A model-level merge, for every tensor in the order of the last source's files.

    A source that is the base has a task vector of zeros and is left out. Tensors of no layer are
    merged like any other, unless ``outside_layers`` names a source (or ``base``) to follow. Stored
    dtypes, integers, towers and optional tensors are as in `plan_sum`. Raises `EvaluationError`
    (``vector``) for weights that cannot be summed.
    """
    last = list(sources.values())[-1]
    moved = tuple(c for c in sources.values() if c.path.resolve() != base.path.resolve())
    followed = {**sources, "base": base}.get(outside_layers)
    towers = tower_tensors(last)
    plans = []
    for layout in _kept((base, *sources.values()), last):
        name = layout.name
        if not layout.is_float or name in towers:
            plans.append(_copy(layout))
            continue
        stored = DTYPE_CODES.get(dtype, layout.dtype)
        if followed is not None and layer_of(name) is None:
            plans.append(TensorPlan(layout, (followed.tensors[name],), WeightedSum((1.0,)), stored))
            continue
        tensors = tuple(checkpoint.tensors[name] for checkpoint in (base, *moved))
        copied = not moved or rule.weight == 0.0
        chosen: WeightedSum | ModelLevelMerge = WeightedSum((1.0,)) if copied else rule
        if not copied and METHODS[rule.method].merge is None:
            own = (rule.weight,) * len(moved)
            chosen = WeightedSum((1.0 - total(own), *own))
        plans.append(TensorPlan(layout, tensors[:1] if copied else tensors, chosen, stored))
    return tuple(plans)


def with_prediction_layers(plans: Sequence[TensorPlan], last: Checkpoint) -> tuple[TensorPlan, ...]:
    """The plans and copies of the last source's layers for multi-token prediction, in file order.

    A folder that is kept has them; the engine does not need them.
    """
    extra = [_copy(last.tensors[name]) for name in prediction_tensors(last)]
    order = {name: position for position, name in enumerate(last.tensors)}
    return tuple(sorted((*plans, *extra), key=lambda tensor: order[tensor.name]))


def copied(tensor: TensorPlan) -> TensorPlan:
    """The plan that takes a tensor from the last source alone; its stored dtype stays."""
    return replace(tensor, sources=(tensor.layout,), rule=WeightedSum((1.0,)))


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
