"""The flags of `apbmm merge` that follow from the merge methods: one for each parameter."""

from __future__ import annotations

from dataclasses import asdict, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from apbmm_common.merge_methods import LINEAR, METHODS


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
    )

    # cyclopts takes no class of the module "types", where make_dataclass puts it, apart.
    MethodParameters.__module__ = __name__

NONE_GIVEN: Any = MethodParameters()


def given(parameters: MethodParameters) -> dict[str, float]:
    """The parameters whose flags were given."""
    return {name: value for name, value in asdict(parameters).items() if value is not None}
