"""The weight of each source in each tensor of a weighted sum; pure.

A layer's weights are a point of a simplex, given as it is or by stick-breaking (`simplex`): of two
sources one number, the first source's weight. Parts of a layer may have weights of their own.
Tensors outside the layers (embeddings, final norm,
output head), of which the paper says nothing, get the mean over the layers unless the caller says
otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from apbmm_common.checkpoint.headers import layer_of
from apbmm_common.checkpoint.tensor_groups import OUTSIDE_GROUPS, outside_group
from apbmm_common.errors import EvaluationError
from apbmm_common.simplex import Row, row_of

_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class SourceWeights:
    """The weights of all sources in each layer, and in each group of `OUTSIDE_GROUPS`.

    ``parts``: those in each layer of some parts of the layers; ``part_of``: the part that a tensor
    is in, by its name.
    """

    layers: tuple[Row, ...]
    outside: Mapping[str, Row]
    parts: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    part_of: Mapping[str, str] = field(default_factory=dict)

    def of(self, tensor_name: str) -> Row:
        """The weights in one tensor."""
        layer = layer_of(tensor_name)
        if layer is None:
            return self.outside[outside_group(tensor_name)]
        return self.parts.get(self.part_of.get(tensor_name, ""), self.layers)[layer]

    def against_base(self) -> SourceWeights:
        """The weights of ``base + sum_i w_i * (source_i - base)``; the base is the first source."""
        return SourceWeights(
            tuple(map(_with_rest, self.layers)),
            {group: _with_rest(row) for group, row in self.outside.items()},
            {part: tuple(map(_with_rest, rows)) for part, rows in self.parts.items()},
            self.part_of,
        )


def _with_rest(row: Row) -> Row:
    return (1.0 - total(row), *row)


def total(weights: Sequence[float]) -> float:
    """The sum of weights. Raises `EvaluationError` (``vector``) where it overflows."""
    try:
        return math.fsum(weights)
    except OverflowError:
        raise EvaluationError(
            f"the weights {', '.join(f'{weight:g}' for weight in weights)} are too large to be "
            "summed",
            "1 adds the whole of a task vector",
            kind="vector",
        ) from None


def pair_weights(weights: Iterable[float]) -> SourceWeights:
    """Two sources: weight x for the first and 1 - x for the second; mean(x) outside the layers."""
    layers = tuple((float(x), 1.0 - float(x)) for x in weights)
    return SourceWeights(layers, outside_rows("mean", (), layers))


def with_tied_head(rows: Mapping[str, Row]) -> dict[str, Row]:
    """The weights of groups outside the layers; a head that is tied to the embeddings gets theirs.

    Such a head has no weights of its own.
    """
    return {"head": rows["embeddings"], **rows} if "embeddings" in rows else dict(rows)


def simplex_row(weights: Sequence[float], where: str) -> Row:
    """The weights of all sources, checked: numbers in [0, 1] that sum to 1.

    Raises `EvaluationError` naming ``where`` otherwise.
    """
    if any(not 0.0 <= weight <= 1.0 for weight in weights):
        raise EvaluationError(
            f"{where}: weights {list(weights)} are not all in [0, 1]", kind="vector"
        )
    total = math.fsum(weights)
    if abs(total - 1.0) > _TOLERANCE:
        raise EvaluationError(f"{where}: the weights sum to {total:g}, not to 1", kind="vector")
    return tuple(float(weight) for weight in weights)


def stick_breaking(vector: Sequence[float], layers: int, sources: int) -> tuple[Row, ...]:
    """For each layer, the S weights that S - 1 numbers in [0, 1] stand for (`simplex.row_of`).

    The numbers of one layer lie together. Raises `EvaluationError` (``vector``) for a vector of
    another length or outside [0, 1].
    """
    free = sources - 1
    if len(vector) != layers * free:
        raise EvaluationError(
            f"the vector has {len(vector)} components; {layers} layers of {sources} sources take "
            f"{layers * free}",
            kind="vector",
        )
    values = _unit_interval(vector)
    return tuple(
        row_of(values[begin : begin + free]) for begin in range(0, layers * free, max(free, 1))
    )


def outside_rows(
    rule: str | Mapping[str, Row], names: Sequence[str], layers: Sequence[Row]
) -> dict[str, Row]:
    """The weights of each group outside the layers.

    ``rule``: ``mean`` of the layers, the name of a source (one of ``names``) to follow, or a row
    for each group, where a group that is left out gets the mean. Raises `EvaluationError` for
    weights that have no mean.
    """
    mean = tuple(total(column) / len(column) for column in zip(*layers, strict=True))
    if rule == "mean":
        return dict.fromkeys(OUTSIDE_GROUPS, mean)
    if isinstance(rule, str):
        return dict.fromkeys(OUTSIDE_GROUPS, tuple(float(name == rule) for name in names))
    return {group: rule.get(group, mean) for group in OUTSIDE_GROUPS}


def _unit_interval(vector: Sequence[float]) -> tuple[float, ...]:
    for index, value in enumerate(vector):
        if not 0.0 <= value <= 1.0:  # also catches a NaN
            raise EvaluationError(
                f"component {index} of the vector is {value}, outside [0, 1]", kind="vector"
            )
    return tuple(float(value) for value in vector)
