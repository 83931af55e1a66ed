"""What a decision vector means: master and worker must agree on it.

A run searches [0, 1]^D. With the linear merge (Eq. 4) a vector holds the thinking model's weight
for each layer (D = L), or for each of fewer blocks of contiguous layers. If the run file asks for
them, the weights of the tensors outside the layers follow, one for each group
(``merge.outside_layers``). With a model-level method a vector holds the weight of that one merge of
whole models, and the parameters of the method that its grid varies.

Layers whose tensors are identical in all sources are not searched: their weight changes nothing. A
block that consists of such layers alone is not searched either.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from apbmm_common.errors import EvaluationError, RunFileError
from apbmm_common.merge_methods import LINEAR, METHODS
from apbmm_common.run_file.schema import RunSpec


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


@dataclass(frozen=True, slots=True)
class Space:
    """The space that a run searches. ``method`` as in `RunSpec.merge_method`.

    ``owners``: for a linear merge, the component of a vector that weighs each layer, None for a
    layer that is not searched. Empty for a model-level method, whose components weigh no single
    layer. ``outside``: the groups of tensors that the last components weigh.
    """

    method: str
    dimensions: int
    owners: tuple[int | None, ...] = ()
    outside: tuple[str, ...] = ()

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
        block = block_of(layers, spec.merge.blocks or layers)
        searched = sorted({block[layer] for layer in range(layers) if layer not in identical})
        if not searched:
            raise RunFileError(
                "sources: the tensors of all layers are identical in thinking and instruct, so "
                "there are no layer weights to search",
                "name two checkpoints whose layers differ",
            )
        component = {number: index for index, number in enumerate(searched)}
        own = tuple(groups) if spec.merge.outside_layers == "own" else ()
        owners = tuple(component.get(number) for number in block)
        return cls(method, len(searched) + len(own), owners, own)

    def layer_weights(self, vector: Sequence[float]) -> tuple[float, ...]:
        """A linear merge's weight for each layer.

        A layer that is not searched gets the mean of the others, which leaves the mean over all
        layers as it is. Raises `EvaluationError` (``vector``) for a vector that is not of this
        space.
        """
        self._require(vector)
        searched = [vector[owner] for owner in self.owners if owner is not None]
        mean = math.fsum(searched) / len(searched)
        return tuple(mean if owner is None else vector[owner] for owner in self.owners)

    def outside_weights(self, vector: Sequence[float]) -> dict[str, float]:
        """A linear merge's weight for each group of `outside`.

        Raises `EvaluationError` (``vector``) for a vector that is not of this space.
        """
        self._require(vector)
        return dict(zip(self.outside, vector[len(vector) - len(self.outside) :], strict=True))

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
