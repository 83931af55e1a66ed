"""`[merge]`: how a vector becomes a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from apbmm_common.run_file.blocks import block_by_borders, block_of
from apbmm_common.run_file.sections.section import (
    Name,
    NamesSource,
    Number,
    Positive,
    Section,
    refuse,
)

_TEXT, _LIST = "(text)", "(list)"
KINDS_OF_TEXTS = (_TEXT, _LIST)
"""What pydantic puts into the places of faults of a filter's texts."""


def _kind_of_texts(value: Any) -> str:
    return _LIST if isinstance(value, list | tuple) else _TEXT


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[
    Annotated[Text, Tag(_TEXT)] | Annotated[tuple[Text, ...], Field(min_length=1), Tag(_LIST)],
    Discriminator(_kind_of_texts),
]


class FilterSection(Section):
    """Tensors of the layers, by texts that their names hold, as in mergekit's configurations."""

    name: Name
    """Name of the filter wherever weights are shown."""
    tensors: Texts
    """Text that is part of the tensors' names (`self_attn`, say), or a list of such texts. `"*"`
    fits every name."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, one of which a tensor's name has to hold."""
        return (self.tensors,) if isinstance(self.tensors, str) else self.tensors


KEYS_OF_GRAINS: Mapping[str, tuple[str, ...]] = {
    "layer": (),
    "blocks": ("blocks", "borders"),
    "parts": ("blocks", "borders", "experts_apart"),
    "filters": ("blocks", "borders", "filters"),
    "adaptive": ("blocks",),
}
"""The keys of `[merge]` that have an effect on each grain."""


class MergeSection(Section):
    """How a vector becomes a checkpoint (Eq. 4), and what happens outside the layers.

    With `grain = "filters"`, `[[merge.filters]]` tables name the tensors. The first filter that
    fits a tensor of a layer counts. Tensors of a layer that none fits get the mean of the layer's
    other weights.
    """

    combine: Literal["simplex", "task_arithmetic"] = "simplex"
    """What the weights of a layer-wise merge are. `simplex`: those of all sources sum to 1.
    `task_arithmetic`: each source has a weight in [0, 1] of its own, by which its difference from
    the base is added to the base. That takes one number more for each layer, a `base` in
    `[sources]`, and may find merges that no weighted mean is; x = 0 is then the base."""
    grain: Literal["layer", "blocks", "parts", "filters", "adaptive"] = "layer"
    """What shares one weight, in a layer-wise merge. `layer`: each layer has a weight of its own.
    `blocks`: those of a block of contiguous layers; `blocks` says how many, or `borders` where they
    begin. `parts`: attention and MLP of a layer each have their own, norms with the part that they
    are of. `filters`: so has each filter of `[[merge.filters]]` in a layer. `adaptive`: `blocks`
    many blocks, whose borders are found from how much the sources differ in each layer once that is
    measured. Fewer weights are learnt from fewer evaluations, more can tell more merges apart.
    Where `blocks` or `borders` are given and this key is not, it is `blocks`."""
    blocks: Positive | None = None
    """Number of blocks of contiguous layers that share their weights, of sizes that differ by one
    layer at most (`adaptive` chooses them). With `parts` and `filters` each part or filter of a
    block has one weight, with `blocks = 1` that of all layers. At most the number of layers."""
    borders: tuple[Positive, ...] = ()
    """The first layers of all blocks but the first, instead of `blocks`: `[4, 20]` are the blocks
    0-3, 4-19 and the rest."""
    filters: tuple[FilterSection, ...] = ()
    """The filters of `grain = "filters"`."""
    experts_apart: bool = False
    """With `grain = "parts"`: the experts of a mixture are a part of their own, apart from routers,
    shared experts and the MLPs of other layers."""
    outside_layers: Annotated[str, NamesSource(("mean", "own"))] = "mean"
    """Weights of the tensors that belong to no layer (embeddings, final norm, output head): `mean`
    gives them the mean of the layers' weights, `own` searches weights of their own for each of
    these groups (layer-wise methods only), the name of a source copies them from that source. With
    `mean` and `own` a merge of one source alone is that source in every tensor."""
    dtype: Literal["source", "float32", "bfloat16", "float16"] = "source"
    """Dtype that merged tensors are stored in: `source` is each tensor's own in the anchor.
    Sums are computed in float32 and rounded once in any case."""
    vocabulary: Literal["same", "common"] = "same"
    """What of the sources' vocabularies is merged. `same` expects one vocabulary, and embeddings
    and head of one size. `common` merges the first rows, as many as all sources have: set it where
    fine-tunes were padded to other sizes. Each token must have one of those rows, and tokens and
    ids that two sources both have must be the same in both."""
    parameters: dict[str, Number] = Field(default_factory=dict)
    """Parameters of a model-level merge method that its grid does not vary, by name (`gamma` of
    `breadcrumbs`, say). The merge methods and their parameters are listed below."""

    @model_validator(mode="before")
    @classmethod
    def _blocks_without_a_grain(cls, table: Any) -> Any:
        """Take a table that names blocks alone for block-wise, as all were before the key came."""
        if isinstance(table, dict) and "grain" not in table:
            return {**table, "grain": implied_grain(table)}
        return table

    @model_validator(mode="after")
    def _keys_of_the_grain(self) -> MergeSection:
        refuse(self._grain_faults())
        return self

    def _grain_faults(self) -> Iterator[str]:
        given = {
            "blocks": self.blocks is not None,
            "borders": bool(self.borders),
            "filters": bool(self.filters),
            "experts_apart": self.experts_apart,
        }
        for key, is_given in given.items():
            if is_given and key not in KEYS_OF_GRAINS[self.grain]:
                yield f'{key} has no effect on grain = "{self.grain}"'
        if self.blocks is not None and self.borders:
            yield "give either blocks, their number, or borders, not both"
        if self.grain == "blocks" and self.blocks is None and not self.borders:
            yield 'grain = "blocks" needs blocks, their number, or borders'
        if self.grain == "adaptive" and self.blocks is None:
            yield 'grain = "adaptive" needs blocks, their number'
        if self.grain == "filters" and not self.filters:
            yield 'grain = "filters" needs [[merge.filters]] tables'
        if list(self.borders) != sorted(set(self.borders)):
            yield f"borders: {list(self.borders)} do not increase"
        names = [each.name for each in self.filters]
        if len(set(names)) != len(names):
            yield f"two filters have the same name: {names}"

    def block_of(self, layers: int) -> tuple[int, ...]:
        """The block of each layer as the keys say; every layer is one where they say nothing.

        Raises `RunFileError` where there are too few layers.
        """
        if self.borders:
            return block_by_borders(layers, self.borders)
        return block_of(layers, layers if self.blocks is None else self.blocks)


def implied_grain(merge: Mapping[str, Any]) -> str:
    """The grain of a `[merge]` table that does not name it."""
    return "blocks" if merge.get("blocks") is not None or merge.get("borders") else "layer"
