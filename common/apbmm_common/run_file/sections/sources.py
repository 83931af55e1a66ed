"""`[sources]`: the checkpoints that are merged, and their names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Discriminator, Tag, model_validator

from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.run_file.sections.section import OptionalPath, Path, Section, SourceName, refuse

PAPER_SOURCES = ("thinking", "instruct")
"""The paper's two sources; the second one is the anchor."""
LEAST_SOURCES, MOST_SOURCES = 2, 8
SOURCE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
SOURCE_NAME_RULE = "1 to 32 letters, digits, dashes and underscores, a letter first"
EVALUATION_ID = re.compile(r"[el][0-9]+")
RESERVED_SOURCE_NAMES = frozenset(
    ("adapters", "prompts", "mean", "own", "measure", "try", "front", "all", "rehearsal")
)
"""Names of other paths, of other rules for tensors outside the layers, and of evaluations."""


class AdaptedSource(Section):
    """A source that is a LoRA adapter on a model."""

    path: Path
    """Folder of the model that the adapter was trained on."""
    adapter: Path
    """Folder of the adapter, as PEFT saves it. A worker adds it to the model once; the source's
    tokenizer and config are the model's."""


_FOLDER, _ADAPTED = "(folder)", "(adapter)"
KINDS_OF_SOURCES = (_FOLDER, _ADAPTED)
"""What pydantic puts into the places of faults of sources."""


def _kind_of_source(value: Any) -> str:
    return _ADAPTED if isinstance(value, Mapping | AdaptedSource) else _FOLDER


Source = Annotated[
    Annotated[Path, Tag(_FOLDER)] | Annotated[AdaptedSource, Tag(_ADAPTED)],
    Discriminator(_kind_of_source),
]


class SourcesSection(Section):
    """The checkpoints that are merged: folders in Hugging Face layout, with safetensors weights.

    Two to eight, each under a name of your choice: a merge is a weighted sum of them. All must be
    fine-tunes of one model: the same architecture, tensor names, shapes and vocabulary. Nothing is
    downloaded. Paths, here and in the other tables, are relative to the run file; `~` and
    `$VARIABLES` are replaced by the environment in which it is read.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra={"minProperties": LEAST_SOURCES})
    other_keys: ClassVar[str] = (
        "Folder of a source, under a name of your choice: from two to eight such keys. `thinking` "
        "and `instruct` are such names. `{ path = FOLDER, adapter = FOLDER }` is a model with a "
        "LoRA adapter of PEFT's, which workers add to it once; it is then like any other source."
    )
    __pydantic_extra__: dict[str, Source]

    base: OptionalPath = None
    """Folder of the base model, which task vectors are taken from. Without it the anchor is the
    base, as the instruct model is in the paper. Set it for the model-level methods (`ties`, `dare`,
    ...), so that every source has a task vector; the linear merge does not use it."""
    anchor: SourceName | None = None
    """Name of the source that a merge equals at x = 0. Without it the last one of the table; of
    `thinking` and `instruct` it is `instruct`."""

    @model_validator(mode="after")
    def _names_of_sources(self) -> SourcesSection:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[str]:
        given = list(self.__pydantic_extra__)
        for name in given:
            if not SOURCE_NAME.fullmatch(name):
                yield f"{name!r} cannot name a source: {SOURCE_NAME_RULE}"
            elif name in RESERVED_SOURCE_NAMES or EVALUATION_ID.fullmatch(name):
                yield f"{name} cannot name a source: it means something else to apbmm"
        if not LEAST_SOURCES <= len(given) <= MOST_SOURCES:
            number = f"{len(given)} ({', '.join(given)})" if given else "none"
            yield f"from {LEAST_SOURCES} to {MOST_SOURCES} sources are merged, not {number}"
        if self.anchor is not None and self.anchor not in given:
            yield f"anchor: no source is called {self.anchor}: {', '.join(given)}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the merged sources, in the order of their weights: the anchor is the last.

        The others are in the order of the table. Those of the paper are thinking, instruct.
        """
        given = tuple(self.__pydantic_extra__)
        last = self.anchor or given[-1]
        if self.anchor is None and {*given} == {*PAPER_SOURCES}:
            last = PAPER_SOURCES[-1]
        return (*(name for name in given if name != last), last)

    @property
    def folders(self) -> dict[str, str]:
        """The folders of the merged sources by name, in the order of `names`.

        Where a source is an adapter on a model, that of the model.
        """
        given = {name: self.__pydantic_extra__[name] for name in self.names}
        return {n: s.path if isinstance(s, AdaptedSource) else s for n, s in given.items()}

    @property
    def lora_adapters(self) -> dict[str, str]:
        """The folders of the adapters by the names of their sources."""
        given = {name: self.__pydantic_extra__[name] for name in self.names}
        return {n: s.adapter for n, s in given.items() if isinstance(s, AdaptedSource)}

    @property
    def with_base(self) -> dict[str, str]:
        """The folders of the merged sources, and of the base where it is one of its own."""
        return self.folders | ({} if self.base is None else {BASE_ROLE: self.base})
