"""A table of the run file, and the kinds of values that its keys have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Unit:
    """Marks the unit of a number, for the run-file reference."""

    name: str


@dataclass(frozen=True)
class HostPath:
    """Marks a key whose value is a path, which may be another one on each host.

    Such a path is made absolute when the run file is read, after ``~`` and ``$VARIABLES`` of the
    environment have been replaced. A worker maps it by its name
    (``--path NAME=PATH``) or restricts it (``--root``). Its name is the value of the key ``named``
    of the same table or, without ``named``, the marked key itself.
    """

    named: str = ""


@dataclass(frozen=True)
class NamesSource:
    """Marks a key whose value is the name of a source, or one of ``others``."""

    others: tuple[str, ...] = ()


SourceName = Annotated[str, NamesSource()]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
NAME_RULE = "1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
Path = Annotated[str, HostPath()]
OptionalPath = Annotated[str | None, HostPath()]
Integer = Annotated[int, Field(ge=-(2**53), le=2**53, strict=True)]
"""Every reader of JSON and MessagePack keeps integers of this range exact."""
Number = Annotated[float, Field(strict=True)]
"""Neither text nor true."""
Natural = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Positive = Annotated[int, Field(ge=1, le=2**53, strict=True)]
Tokens = Annotated[Positive, Unit("tokens")]


def _portable(value: Any) -> Any:
    """Refuse what cannot travel in JSON: dates, infinities, integers over 2^53."""
    match value:
        case bool() | str():
            pass
        case int() if abs(value) > 2**53:
            raise ValueError(f"{value} is over 2^53")
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        case dict():
            for item in value.values():
                _portable(item)
        case list() | tuple():
            for item in value:
                _portable(item)
        case int() | float():
            pass
        case _:
            raise ValueError(f"{value} is neither text, number, list nor table")
    return value


def _scalar(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("must be true, false, a number or text")  # noqa: TRY004 - as all faults
    return _portable(value)


Table = Annotated[dict[str, Any], AfterValidator(_portable)]
Scalar = Annotated[Any, AfterValidator(_scalar)]
"""A bool, int, float or str."""


def refuse(faults: Iterable[str]) -> None:
    """Raise ValueError with one line for each fault, if there are any."""
    lines = "\n".join(faults)
    if lines:
        raise ValueError(lines)


class Section(BaseModel):
    """A table of the run file: frozen, and no key that it does not know."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
    )
    other_keys: ClassVar[str] = ""
    """What a key of the author's own choice means, which is then the path that it names. Empty for
    a table that takes none."""
