"""What a decision vector means: master and worker must agree on it.

A run searches [0, 1]^D. With the linear merge (Eq. 4) a vector holds the thinking model's weight
for each layer (D = L), or for each of fewer blocks of contiguous layers; if the run file asks for
them, the weights of what belongs to no layer follow, one for each group (`outside_layers`). With a
model-level method it holds the weight, and the density, of that one merge of whole models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apbmm_common.errors import EvaluationError, RunFileError
from apbmm_common.run_file.load import LINEAR, RunSpec

TASK_ARITHMETIC = "task_arithmetic"


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
    """The space that a run searches. ``method`` as in `runfile.RunSpec.merge_method`.

    ``owners`` is the component that weighs each layer, of a linear merge; with a model-level
    method, whose components weigh no single layer, it is empty. ``outside`` are the groups that
    the last components weigh.
    """

    method: str
    dimensions: int
    owners: tuple[int, ...] = ()
    outside: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: RunSpec, layers: int, groups: Sequence[str]) -> Space:
        """The space of a run whose sources have ``layers``, and ``groups`` outside them.

        Raises `RunFileError` as `block_of` does.
        """
        method = spec.merge_method
        if method == LINEAR:
            blocks = spec.merge.blocks or layers
            own = tuple(groups) if spec.merge.outside_layers == "own" else ()
            return cls(method, blocks + len(own), block_of(layers, blocks), own)
        return cls(method, 1 if method == TASK_ARITHMETIC else 2)

    def layer_weights(self, vector: Sequence[float]) -> tuple[float, ...]:
        """A linear merge's weight for each layer.

        Raises `EvaluationError` (``vector``) for a vector that is not of this space.
        """
        self._require(vector)
        return tuple(vector[owner] for owner in self.owners)

    def outside_weights(self, vector: Sequence[float]) -> dict[str, float]:
        """A linear merge's weight for each group of `outside`.

        Raises `EvaluationError` (``vector``) for a vector that is not of this space.
        """
        self._require(vector)
        return dict(zip(self.outside, vector[len(vector) - len(self.outside) :], strict=True))

    def weight_and_density(self, vector: Sequence[float]) -> tuple[float, float]:
        """A model-level merge's two numbers; task arithmetic keeps everything.

        Raises `EvaluationError` (``vector``) for a vector that is not of this space.
        """
        self._require(vector)
        return (vector[0], vector[1]) if len(vector) > 1 else (vector[0], 1.0)

    def _require(self, vector: Sequence[float]) -> None:
        if len(vector) != self.dimensions:
            raise EvaluationError(
                f"the vector has {len(vector)} components, the run's space {self.dimensions}",
                kind="vector",
            )
