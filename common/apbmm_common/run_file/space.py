"""What a decision vector means: master and worker must agree on it.

A run searches [0, 1]^D. With the linear merge (Eq. 4) of two sources a vector holds the first
source's weight for each layer (D = L), or for each of fewer blocks of contiguous layers. More
sources, S of them, take S - 1 numbers for each layer or block, by stick-breaking (see `simplex`):
D = (S - 1) L. With ``merge.combine = "task_arithmetic"`` a layer has a number for each source,
which weighs its difference from the base: D = S L. If the run file asks for them, those of the
tensors outside the layers follow, for each group (``merge.outside_layers``). With a model-level
method a vector holds the weight of that one merge of whole models, and the parameters of the method
that its grid varies.

Layers whose tensors are identical in all sources are not searched: their weight changes nothing. A
block that consists of such layers alone is not searched either.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from apbmm_common.errors import EvaluationError, RunFileError
from apbmm_common.merge_methods import LINEAR, METHODS
from apbmm_common.run_file.schema import RunSpec, SourcesSection
from apbmm_common.simplex import Row, numbers_of, one_hot, row_of


def block_of(layers: int, blocks: int) -> tuple[int, ...]:
    """The block (0 .. blocks - 1) of each layer; block sizes differ by one layer at most.

    Raises `RunFileError` unless 1 <= blocks <= layers.
    """
    if not 1 <= blocks <= layers:
        raise RunFileError(
            f"merge.blocks: {layers} layers cannot be cut into {blocks} blocks",
            f"a whole number from 1 to {layers}, or nothing for a weight of its own for each layer",
        )
    return tuple(layer * blocks // layers for layer in range(layers))


def reference_vector(sources: SourcesSection, name: str, layers: int) -> tuple[float, ...]:
    """The vector of a reference, which is one of the sources: its numbers, for each layer.

    It has those of all layers, whatever the run searches. Of two sources the first one's are ones,
    and the anchor's are zeros, as with any number of sources.
    """
    return numbers_of(one_hot(sources.names.index(name), len(sources.names))) * layers


@dataclass(frozen=True, slots=True)
class Space:
    """The space that a run searches. ``method`` as in `RunSpec.merge_method`.

    ``owners``: for a linear merge, the block that each layer is in, of those that are searched:
    its numbers are components of a vector, those of block 0 first. None for a layer that is not
    searched. Empty for a model-level method, whose components weigh no single layer. ``outside``:
    the groups of tensors that the last components weigh. ``sources``: how many are merged;
    ``simplex``: whether their weights sum to 1.
    """

    method: str
    dimensions: int
    owners: tuple[int | None, ...] = ()
    outside: tuple[str, ...] = ()
    sources: int = 2
    simplex: bool = True

    @classmethod
    def of(
        cls,
        spec: RunSpec,
        layers: int,
        groups: Sequence[str],
        identical: Collection[int] = (),
    ) -> Space:
        """The space of a run whose sources have ``layers``, and ``groups`` outside them.

        ``identical``: the layers whose tensors are the same in all sources. Raises `RunFileError`
        when that is all of them, and as `block_of` does.
        """
        method = spec.merge_method
        if method != LINEAR:
            return cls(method, 1 + len(METHODS[method].searched))
        names, simplex = spec.sources.names, spec.merge.combine == "simplex"
        if not simplex:
            identical = ()  # a layer that is the same in all sources may differ from the base's
        block = block_of(layers, spec.merge.blocks or layers)
        searched = sorted({block[layer] for layer in range(layers) if layer not in identical})
        if not searched:
            raise RunFileError(
                "sources: the tensors of all layers are identical in "
                f"{', '.join(names[:-1])} and {names[-1]}, so there are no layer weights to search",
                "name checkpoints whose layers differ",
            )
        place = {number: index for index, number in enumerate(searched)}
        own = tuple(groups) if spec.merge.outside_layers == "own" else ()
        owners = tuple(place.get(number) for number in block)
        dimensions = (len(searched) + len(own)) * (len(names) - simplex)
        return cls(method, dimensions, owners, own, len(names), simplex)

    @property
    def numbers(self) -> int:
        """How many components of a vector belong to one layer, block or group."""
        return self.sources - self.simplex

    def corner(self, source: int) -> tuple[float, ...]:
        """The vector of a linear merge that is one source alone, by its position."""
        row = one_hot(source, self.sources)
        numbers = numbers_of(row) if self.simplex else row
        return numbers * (self.dimensions // self.numbers)

    def layer_rows(self, vector: Sequence[float]) -> tuple[Row, ...]:
        """A linear merge's weights of all sources, for each layer.

        A layer that is not searched gets the mean of the others, which leaves the mean over all
        layers as it is. Raises `EvaluationError` (``vector``) for a vector that is not of this
        space.
        """
        self._require(vector)
        rows = self._rows(vector)
        searched = [rows[owner] for owner in self.owners if owner is not None]
        means = [math.fsum(column) / len(column) for column in zip(*searched, strict=True)]
        mean = (*means[:-1], 1.0 - math.fsum(means[:-1])) if self.simplex else tuple(means)
        return tuple(mean if owner is None else rows[owner] for owner in self.owners)

    def layer_weights(self, vector: Sequence[float]) -> tuple[float, ...]:
        """The first source's weight of `layer_rows`, for each layer."""
        return tuple(row[0] for row in self.layer_rows(vector))

    def outside_rows(self, vector: Sequence[float]) -> dict[str, Row]:
        """A linear merge's weights of all sources, for each group of `outside`.

        Raises `EvaluationError` (``vector``) for a vector that is not of this space.
        """
        self._require(vector)
        rows = self._rows(vector)
        return dict(zip(self.outside, rows[len(rows) - len(self.outside) :], strict=True))

    def outside_weights(self, vector: Sequence[float]) -> dict[str, float]:
        """The first source's weight of `outside_rows`, for each group."""
        return {group: row[0] for group, row in self.outside_rows(vector).items()}

    def _rows(self, vector: Sequence[float]) -> list[Row]:
        size = self.numbers
        parts = [tuple(vector[begin : begin + size]) for begin in range(0, len(vector), size)]
        return [row_of(part) for part in parts] if self.simplex else parts

    def weight_and_parameters(self, vector: Sequence[float]) -> tuple[float, dict[str, float]]:
        """A model-level merge's weight, and the parameters that the grid varies, by name.

        Raises `EvaluationError` (``vector``) for a vector that is not of this space.
        """
        self._require(vector)
        searched = METHODS[self.method].searched
        return vector[0], {p.name: x for p, x in zip(searched, vector[1:], strict=True)}

    def _require(self, vector: Sequence[float]) -> None:
        if len(vector) != self.dimensions:
            raise EvaluationError(
                f"the vector has {len(vector)} components, the run's space {self.dimensions}",
                kind="vector",
            )
        for index, value in enumerate(vector):
            if not 0.0 <= value <= 1.0:  # also catches a NaN
                raise EvaluationError(
                    f"component {index} of the vector is {value}, outside [0, 1]", kind="vector"
                )
