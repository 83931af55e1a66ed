"""The flags of `apbmm merge`, with one for each parameter of the merge methods."""

from __future__ import annotations

from dataclasses import asdict, dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from apbmm_common.merge_methods import LINEAR, METHODS

Dtype = Literal["source", "float32", "bfloat16", "float16"]
Vocabulary = Literal["same", "common"]


def _help_of(name: str) -> str:
    """What a parameter means in each of the methods that take it."""
    users: dict[str, list[str]] = {}
    for method in METHODS.values():
        for parameter in method.parameters:
            if parameter.name == name:
                text = (
                    f"{parameter.meaning}, in {parameter.interval}. Default: {parameter.default:g}."
                )
                users.setdefault(text, []).append(method.name)
    return " ".join(f"{', '.join(names)}: {text}" for text, names in users.items())


_NAMES = dict.fromkeys(p.name for method in METHODS.values() for p in method.parameters)

if TYPE_CHECKING:
    MethodName = str
    MethodParameters = Any
else:
    MethodName = Literal[(LINEAR, *METHODS)]
    MethodParameters = make_dataclass(
        "MethodParameters",
        [(n, Annotated[float | None, Parameter(help=_help_of(n))], None) for n in _NAMES],
        frozen=True,
    )

    # cyclopts takes no class of the module "types", where make_dataclass puts it, apart.
    MethodParameters.__module__ = __name__

NONE_GIVEN: Any = MethodParameters()


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """The flags of `apbmm merge`; None where one was not given.

    Parameters
    ----------
    out
        Folder for the merge: new or empty.
    source
        A checkpoint folder, or NAME=FOLDER. Give it once for each source. Without a name they are
        called 1, 2, ...
    base
        The checkpoint that task vectors are taken from.
    method
        How to merge.
    weight
        Linear: the first source's weight, of two. Other methods: the factor of the merged task
        vectors (mergekit's lambda).
    weights
        JSON file of weights (linear, task_arithmetic). A list has an entry for each layer: the
        first source's weight of two (or the only one's), or a list with a weight for each source.
        {"layers": [...]} is the same, {"blocks": [...]} has an entry for each of so many runs of
        layers ("borders" beside it says where they begin), {"parts": {"attention": [...], "mlp":
        [...]}} and {"filters": [{"tensors": "q_proj", "layers": [...]}, ...]} have such lists for
        parts of the layers, {"sticks": [...]} numbers in [0, 1] by stick-breaking (linear), one
        fewer a layer than sources. Beside them "outside" says what --outside-layers does, or has
        entries for "embeddings", "norm" and "head".
    seed
        Decides what the random methods (dare, della) drop. Default: 0.
    outside_layers
        For embeddings, final norm and output head: mean (of the layers' weights, the default), or
        the name of a source to follow.
    template_from
        The source that config, tokenizer, chat template and generation config are copied from.
        Default: the first.
    dtype
        Stored dtype. Default: each tensor's own in the last source.
    vocabulary
        common merges the first rows of embeddings and head, as many as all sources have: for
        vocabularies that are padded to other sizes. Default: all must be the same.
    """

    out: Path
    source: Annotated[tuple[str, ...], Parameter(negative=())] = ()
    base: Path | None = None
    method: MethodName = LINEAR
    weight: float | None = None
    weights: Path | None = None
    parameters: Annotated[MethodParameters, Parameter(name="*")] = NONE_GIVEN
    seed: int | None = None
    outside_layers: str | None = None
    template_from: str | None = None
    dtype: Dtype = "source"
    vocabulary: Vocabulary = "same"


def given(parameters: MethodParameters) -> dict[str, float]:
    """The parameters whose flags were given."""
    return {name: value for name, value in asdict(parameters).items() if value is not None}
