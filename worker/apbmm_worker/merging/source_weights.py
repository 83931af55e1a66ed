"""The weight of each source in each tensor of a weighted sum; pure.

Of two sources, a layer's weights are one number: the first source's weight. Of more, they are a
point of a simplex, given as it is or by stick-breaking. Tensors outside the layers (embeddings,
final norm, output head), of which the paper says nothing, get the mean over the layers unless the
caller says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from apbmm_common.checkpoint.headers import layer_of
from apbmm_common.checkpoint.tensor_groups import OUTSIDE_GROUPS, outside_group
from apbmm_common.errors import EvaluationError

Row = tuple[float, ...]
"""One weight for each source."""

_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class SourceWeights:
    """The weights of all sources in each layer, and in each group of `OUTSIDE_GROUPS`."""

    layers: tuple[Row, ...]
    outside: Mapping[str, Row]

    def of(self, tensor_name: str) -> Row:
        """The weights in one tensor."""
        layer = layer_of(tensor_name)
        return self.outside[outside_group(tensor_name)] if layer is None else self.layers[layer]

    def against_base(self) -> SourceWeights:
        """The weights of ``base + sum_i w_i * (source_i - base)``; the base is the first source."""
        return SourceWeights(
            tuple(_with_rest(row) for row in self.layers),
            {group: _with_rest(row) for group, row in self.outside.items()},
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


def layer_weights(vector: Sequence[float], layers: int) -> tuple[float, ...]:
    """The first (thinking) source's weight for each layer: the vector itself, checked.

    Raises `EvaluationError` (``vector``) unless it has one number in [0, 1] for each layer.
    """
    if len(vector) != layers:
        raise EvaluationError(
            f"the vector has {len(vector)} components, the sources {layers} layers", kind="vector"
        )
    return _unit_interval(vector)


def pair_weights(weights: Iterable[float]) -> SourceWeights:
    """Two sources: weight x for the first and 1 - x for the second; mean(x) outside the layers."""
    layers = tuple((float(x), 1.0 - float(x)) for x in weights)
    return SourceWeights(layers, outside_rows("mean", (), layers))


def own_rows(weights: Mapping[str, float]) -> dict[str, Row]:
    """Two sources: the weights of each group outside the layers, from the first source's weight.

    A head that is tied to the embeddings has no weight of its own and gets theirs. Raises
    `EvaluationError` (``vector``) for a weight outside [0, 1].
    """
    for group, weight in weights.items():
        if not 0.0 <= weight <= 1.0:  # also catches a NaN
            raise EvaluationError(
                f"the weight of the {group} is {weight}, outside [0, 1]", kind="vector"
            )
    rows: dict[str, Row] = {
        group: (float(weight), 1.0 - weight) for group, weight in weights.items()
    }
    if "embeddings" in rows:
        rows.setdefault("head", rows["embeddings"])
    return rows


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
    """S - 1 numbers in [0, 1] a layer to S weights that sum to 1, for each layer.

    The first source takes a share of the stick, the next a share of the rest, and so on; the last
    source gets what is left. Zeros are the last source, v_1 = 1 is the first, and of two sources
    the first gets v itself. The numbers of one layer lie together. v_k stands for the share
    1 - (1 - v_k)^(1 / (S - k)), so that numbers drawn uniformly give points that are uniform on the
    simplex (with v_k itself as the share, the last sources would get little). Raises
    `EvaluationError` (``vector``) for a vector of another length or outside [0, 1].
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
        _broken(values[begin : begin + free]) for begin in range(0, layers * free, max(free, 1))
    )


def _broken(values: Sequence[float]) -> Row:
    left, row = 1.0, []
    for rest, value in zip(range(len(values), 0, -1), values, strict=True):
        share = value if rest == 1 else 1.0 - (1.0 - value) ** (1.0 / rest)
        row.append(left * share)
        left *= 1.0 - share
    return (*row, left)


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
