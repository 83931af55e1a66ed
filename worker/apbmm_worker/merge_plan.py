"""What a decision vector means for every tensor of a merge; pure, reads no weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from apbmm_common.checkpoint import ITEM_BYTES, Checkpoint, TensorHeader, layer_of
from apbmm_common.compatibility import optional_tensors
from apbmm_common.errors import EvaluationError
from apbmm_common.runfile import Merge

_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class TensorPlan:
    """How one tensor is made: ``weight`` is the thinking model's, ``dtype`` the stored one."""

    thinking: TensorHeader
    instruct: TensorHeader
    weight: float
    dtype: str

    @property
    def name(self) -> str:
        """The tensor's name, the same in both sources."""
        return self.instruct.name

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.instruct.shape)

    @property
    def length(self) -> int:
        """Bytes of the stored tensor."""
        return self.elements * ITEM_BYTES[self.dtype]


def layer_weights(vector: Sequence[float], layers: int) -> tuple[float, ...]:
    """The thinking model's weight for each layer: the vector itself, checked.

    Raises `EvaluationError` when it has not one number in [0, 1] for each layer.
    """
    if len(vector) != layers:
        raise EvaluationError(
            f"the vector has {len(vector)} components, the sources {layers} layers", kind="vector"
        )
    for index, value in enumerate(vector):
        if not 0.0 <= value <= 1.0:  # also catches a NaN
            raise EvaluationError(
                f"component {index} of the vector is {value}, outside [0, 1]", kind="vector"
            )
    return tuple(float(value) for value in vector)


def plan(
    thinking: Checkpoint, instruct: Checkpoint, weights: Sequence[float], merge: Merge
) -> tuple[TensorPlan, ...]:
    """What becomes of every tensor, in the order of the instruct model's files.

    ``weights``: one for each layer (`layer_weights`). A tensor of no layer gets mean(weights), or
    1 or 0 where ``merge.outside_layers`` names a source. The stored dtype is the instruct model's
    own for each tensor, unless ``merge.dtype`` names one. Integers and booleans, which
    verification found equal, are copied. `optional_tensors` are left out.
    """
    outside = {
        "mean": math.fsum(weights) / len(weights),
        "thinking": 1.0,
        "instruct": 0.0,
    }[merge.outside_layers]
    left_out = optional_tensors((thinking, instruct))
    plans = []
    for name, tensor in instruct.tensors.items():
        if name in left_out:
            continue
        dtype, weight = tensor.dtype, 0.0
        if tensor.is_float:
            dtype = _STORED.get(merge.dtype, dtype)
            layer = layer_of(name)
            weight = outside if layer is None else weights[layer]
        plans.append(TensorPlan(thinking.tensors[name], tensor, weight, dtype))
    return tuple(plans)
