"""Every fault of a run file at once: of single keys, and of keys that do not fit together.

pydantic looks at keys together only in a table whose every key is sound, so whoever mended one
fault would meet the next. Here a table that is not sound as a whole is held to its rules all the
same, with what is sound in it; a rule that needs more than that is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from apbmm_common.run_file.schema import Section

Where = tuple[str | int, ...]

_CONFIG = ConfigDict(allow_inf_nan=bool(Section.model_config["allow_inf_nan"]))


class UnsoundError(AttributeError):
    """A value was asked for that is not sound."""


class Partial:
    """The sound values of a table that is not sound as a whole; others raise `UnsoundError`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise UnsoundError(name)


@dataclass
class Salvage:
    """What was found in a run file: ``faults`` are lines that begin with the place."""

    faults: list[str] = field(default_factory=list)

    def section(self, kind: type[Section], table: Any, where: Where = ()) -> Section | Partial:
        """The table as a section where it is sound, with what is sound in it otherwise."""
        if not isinstance(table, Mapping):
            self._fault(where, f"must be a table, not {_shown(table)}")
            return Partial({})
        before = len(self.faults)
        values: dict[str, Any] = {}
        for name, info in kind.model_fields.items():
            if name in table:
                with suppress(UnsoundError):
                    values[name] = self._value(info, table[name], (*where, name))
            elif info.is_required():
                self._fault((*where, name), "missing")
            else:
                values[name] = info.get_default(call_default_factory=True)
        for name in table.keys() - kind.model_fields.keys():
            near = get_close_matches(str(name), kind.model_fields, 1)
            self._fault((*where, name), "unknown key" + (f", {near[0]} is one" if near else ""))
        part = Partial(values)
        for rule in kind.rules:
            with suppress(UnsoundError):
                for fault in rule(part):
                    self._fault(where, fault)
        return part if len(self.faults) > before else kind.model_construct(**values)

    def _value(self, info: FieldInfo, value: Any, where: Where) -> Any:
        """The value of one key. Raises `UnsoundError` after its faults are noted."""
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            return self.section(kind, value, where)
        items = get_args(kind) if get_origin(kind) is tuple else ()
        if items and isinstance(items[0], type) and issubclass(items[0], Section):
            if not isinstance(value, list | tuple):
                self._fault(where, f"must be a list of tables, not {_shown(value)}")
                raise UnsoundError
            return tuple(self.section(items[0], v, (*where, i)) for i, v in enumerate(value))
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[kind, info], config=_CONFIG)  # type: ignore[arg-type]
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            for fault in error.errors():
                self._fault((*where, *fault["loc"]), _reason(fault))
            raise UnsoundError from None

    def _fault(self, where: Where, text: str) -> None:
        self.faults.append(f"{'.'.join(map(str, where)) or 'run file'}: {text}")


_WORDS = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "greater_than": "must be more than {gt}",
    "less_than": "must be less than {lt}",
    # The one pattern of a run file is that of `run_sections.Name`.
    "string_pattern_mismatch": "must be 1 to 64 letters, digits, dots, dashes and underscores, "
    "a letter or digit first",
}


def _reason(fault: ErrorDetails) -> str:
    """What is wrong with one value, in words for whoever wrote the run file."""
    if fault["type"] not in _WORDS:
        return fault["msg"].removeprefix("Value error, ")
    words = _WORDS[fault["type"]].format(**fault.get("ctx", {}))
    return f"{words}, not {_shown(fault['input'])}"


def _shown(value: Any) -> str:
    """A value as it stands in the run file, if it is short."""
    match value:
        case Mapping():
            return "a table"
        case list() | tuple():
            return "a list"
        case bool():
            return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
