"""What a decision vector means: master and worker must agree on it.

A run searches [0, 1]^D. With the linear merge (Eq. 4) of two sources a vector holds the first
source's weight for each layer (D = L), or for each of fewer blocks of contiguous layers, or for
each part of a layer or block (``merge.grain``). What shares a weight is called a unit. More
sources, S of them, take S - 1 numbers for each unit, by stick-breaking (see `simplex`): with a unit
for each layer, D = (S - 1) L. With ``merge.combine = "task_arithmetic"`` a unit has a number for
each source, which weighs its difference from the base: D = S L. If the run file asks for them,
those of the tensors outside the layers follow, for each group (``merge.outside_layers``). With a
model-level method a vector holds the weight of that one merge of whole models, and the parameters
of the method that its grid varies.

Layers, and parts of a layer, whose tensors are identical in all sources are not searched: their
weight changes nothing. A block that consists of such layers alone is not searched either.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from apbmm_common.checkpoint.headers import Checkpoint
from apbmm_common.checkpoint.identical_layers import layer_ranges
from apbmm_common.checkpoint.layer_parts import (
    ATTENTION,
    EXPERTS,
    MLP,
    filtered_parts,
    layers_of_parts,
    natural_parts,
)
from apbmm_common.errors import EvaluationError, RunFileError
from apbmm_common.merge_methods import LINEAR, METHODS
from apbmm_common.run_file.blocks import block_by_borders
from apbmm_common.run_file.run_spec import RunSpec
from apbmm_common.run_file.sections.merge import MergeSection
from apbmm_common.run_file.sections.sources import SourcesSection
from apbmm_common.simplex import Row, numbers_of, one_hot, row_of

MOST_COMPONENTS = 4096
"""Of a vector, which has to fit into one message."""
NO_PARTS: Mapping[str, Sequence[int]] = MappingProxyType({})


def part_names(merge: MergeSection) -> tuple[str, ...]:
    """The parts of a layer that a run tells apart, in their order; none where it weighs layers."""
    if merge.grain == "filters":
        return tuple(each.name for each in merge.filters)
    if merge.grain == "parts":
        return (ATTENTION, MLP, EXPERTS) if merge.experts_apart else (ATTENTION, MLP)
    return ()


def parts_of_tensors(merge: MergeSection, names: Iterable[str]) -> dict[str, str]:
    """The part that each of these tensors is in; those in none are left out."""
    if merge.grain == "filters":
        return filtered_parts(names, {each.name: each.texts for each in merge.filters})
    if merge.grain == "parts":
        return natural_parts(names, experts_apart=merge.experts_apart)
    return {}


def searched_parts(
    merge: MergeSection, checkpoints: Sequence[Checkpoint]
) -> dict[str, tuple[int, ...]]:
    """The layers in which each part is searched; empty for a run that tells no parts apart.

    Raises `SourceError` for a file that cannot be read.
    """
    part_of = parts_of_tensors(merge, checkpoints[-1].tensors)
    if not part_of:
        return {}
    return layers_of_parts(checkpoints, part_of, identical=merge.combine != "simplex")


def reference_vector(sources: SourcesSection, name: str, layers: int) -> tuple[float, ...]:
    """The vector of a reference, which is one of the sources: its numbers, for each layer.

    It has those of all layers, whatever the run searches. Of two sources the first one's are ones,
    and the anchor's are zeros, as with any number of sources.
    """
    return numbers_of(one_hot(sources.names.index(name), len(sources.names))) * layers


@dataclass(frozen=True, slots=True)
class Space:
    """The space that a run searches. ``method`` as in `RunSpec.merge_method`.

    ``owners``: for a linear merge, the unit that each layer is in, of those that are searched:
    its numbers are components of a vector, those of unit 0 first. None for a layer that is not
    searched. Where layers have ``parts``, that of each layer's first part, then that of each
    layer's second part, and so on; None also where a layer has no such part. Empty for a
    model-level method, whose components weigh no single layer. ``outside``: the groups of tensors
    that the last components weigh. ``sources``: how many are merged; ``simplex``: whether their
    weights sum to 1.
    """

    method: str
    dimensions: int
    owners: tuple[int | None, ...] = ()
    outside: tuple[str, ...] = ()
    sources: int = 2
    simplex: bool = True
    parts: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        spec: RunSpec,
        layers: int,
        groups: Sequence[str],
        identical: Collection[int] = (),
        parts: Mapping[str, Sequence[int]] = NO_PARTS,
        borders: Sequence[int] = (),
    ) -> Space:
        """The space of a run whose sources have ``layers``, and ``groups`` outside them.

        ``identical``: the layers whose tensors are the same in all sources. ``parts``: for a run
        that tells parts of layers apart, the layers in which each is searched. ``borders``: those
        that were found, of a run with ``grain = "adaptive"``. Raises `RunFileError` where nothing
        is left to search, for more components than `MOST_COMPONENTS`, and where there are too few
        layers for the blocks.
        """
        method = spec.merge_method
        if method != LINEAR:
            return cls(method, 1 + len(METHODS[method].searched))
        merge, names = spec.merge, spec.sources.names
        simplex = merge.combine == "simplex"
        if not simplex:
            identical = ()  # a layer that is the same in all sources may differ from the base's
        _require_parts(merge, parts)
        block = merge.block_of(layers)
        if merge.grain == "adaptive":
            _require_layers(merge, layers - len(identical))
            block = block_by_borders(layers, borders)
        known = part_names(merge)
        shown = tuple(name for name in known if name in parts)
        if known:
            searched = [layer in parts[name] for name in shown for layer in range(layers)]
        else:
            searched = [layer not in identical for layer in range(layers)]
        units = [(block[cell % layers], cell // layers) for cell in range(len(searched))]
        found = sorted(
            {unit for unit, is_searched in zip(units, searched, strict=True) if is_searched}
        )
        if not found:
            raise RunFileError(
                "sources: the tensors of all layers are identical in "
                f"{', '.join(names[:-1])} and {names[-1]}, so there are no layer weights to search",
                "name checkpoints whose layers differ",
            )
        place = {unit: index for index, unit in enumerate(found)}
        owners = tuple(
            # A whole layer that is identical stays in its block, where others of that are searched.
            place.get(unit) if is_searched or not known else None
            for unit, is_searched in zip(units, searched, strict=True)
        )
        own = tuple(groups) if merge.outside_layers == "own" else ()
        dimensions = (len(found) + len(own)) * (len(names) - simplex)
        if dimensions > MOST_COMPONENTS:
            raise RunFileError(
                f"merge: a vector of {dimensions} numbers is too long: at most {MOST_COMPONENTS}",
                "blocks makes them fewer",
            )
        return cls(method, dimensions, owners, own, len(names), simplex, shown)

    @property
    def numbers(self) -> int:
        """How many components of a vector belong to one unit or group."""
        return self.sources - self.simplex

    def corner(self, source: int) -> tuple[float, ...]:
        """The vector of a linear merge that is one source alone, by its position."""
        row = one_hot(source, self.sources)
        numbers = numbers_of(row) if self.simplex else row
        return numbers * (self.dimensions // self.numbers)

    @property
    def layers(self) -> int:
        """The number of layers of a linear merge; 0 for a model-level method."""
        return len(self.owners) // max(1, len(self.parts))

    @property
    def unit_names(self) -> tuple[str, ...]:
        """What each unit weighs, then the groups outside: ``7``, ``4-7``, ``7 attention``."""
        inside: dict[int, tuple[list[int], str]] = {}
        for cell, owner in enumerate(self.owners):
            if owner is not None:
                part = self.parts[cell // self.layers] if self.parts else ""
                inside.setdefault(owner, ([], part))[0].append(cell % self.layers)
        units = (inside[owner] for owner in sorted(inside))
        return (
            *(f"{layer_ranges(layers)} {part}".rstrip() for layers, part in units),
            *self.outside,
        )

    def layer_rows(self, vector: Sequence[float]) -> tuple[Row, ...]:
        """A linear merge's weights of all sources, for each layer; of its parts, the mean.

        A layer that is not searched gets the mean of the others, which leaves the mean over all
        layers as it is. Raises `EvaluationError` (``vector``) for a vector that is not of this
        space.
        """
        self._require(vector)
        rows = self._rows(vector)
        layers = self.layers
        own = [
            [rows[owner] for owner in self.owners[layer::layers] if owner is not None]
            for layer in range(layers)
        ]
        mean = self._mean([self._mean(found) for found in own if found])
        return tuple(self._mean(found) if found else mean for found in own)

    def part_rows(self, vector: Sequence[float]) -> dict[str, tuple[Row, ...]]:
        """A linear merge's weights of all sources, for each part and layer; empty without parts.

        A part that is not searched in a layer gets the weights of the layer in `layer_rows`. Raises
        what that raises.
        """
        rows, of_layers = self._rows(vector), self.layer_rows(vector)
        layers = self.layers
        return {
            part: tuple(
                of_layers[layer] if owner is None else rows[owner]
                for layer, owner in enumerate(self.owners[number * layers : (number + 1) * layers])
            )
            for number, part in enumerate(self.parts)
        }

    def named_rows(self, vector: Sequence[float]) -> dict[str, Row]:
        """The weights of all sources in each layer, or each of its searched parts, by its name.

        The names are ``7`` and ``7 attention``. Raises what `layer_rows` raises.
        """
        if not self.parts:
            return {str(layer): row for layer, row in enumerate(self.layer_rows(vector))}
        self._require(vector)
        rows = self._rows(vector)
        found = {}
        for layer in range(self.layers):
            for part, owner in zip(self.parts, self.owners[layer :: self.layers], strict=True):
                if owner is not None:
                    found[f"{layer} {part}"] = rows[owner]
        return found

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

    def _mean(self, rows: Sequence[Row]) -> Row:
        if len(rows) == 1:
            return rows[0]
        means = [math.fsum(column) / len(column) for column in zip(*rows, strict=True)]
        return (*means[:-1], 1.0 - math.fsum(means[:-1])) if self.simplex else tuple(means)

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


def _require_parts(merge: MergeSection, parts: Mapping[str, Sequence[int]]) -> None:
    """Raise `RunFileError` unless the sources have the parts that a run tells apart."""
    if merge.grain == "filters":
        for name in part_names(merge):
            if name not in parts:
                raise RunFileError(
                    f"merge.filters: {name} fits no tensor of the layers that differs between the "
                    "sources",
                    "the first filter that fits a tensor has it; tensors outside the layers are "
                    "weighed by outside_layers",
                )
    elif EXPERTS in part_names(merge) and EXPERTS not in parts:
        raise RunFileError(
            "merge.experts_apart: the sources have no experts that differ", "leave it out"
        )


def _require_layers(merge: MergeSection, searched: int) -> None:
    """Raise `RunFileError` where more blocks are to be found than there are searched layers."""
    if merge.blocks is not None and merge.blocks > searched > 0:
        raise RunFileError(
            f"merge.blocks: {searched} layers that differ cannot be cut into {merge.blocks} blocks",
            f"a whole number from 1 to {searched}",
        )
