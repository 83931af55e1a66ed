"""Reads and writes RUN.toml.

Every fault of a file is reported at once, each in one line that begins with its key.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from apbmm_common.errors import RunFileError
from apbmm_common.run_file.paths import paths_in, section_of
from apbmm_common.run_file.run_spec import RunSpec
from apbmm_common.run_file.sections.merge import KINDS_OF_TEXTS
from apbmm_common.run_file.sections.section import NAME_RULE, Section
from apbmm_common.run_file.sections.sources import KINDS_OF_SOURCES, AdaptedSource


def load_run_file(path: Path) -> RunSpec:
    """Read and validate RUN.toml; relative paths are taken from the file's own folder.

    Raises `RunFileError` naming every fault at once.
    """
    return parse_run(read_table(path), str(path))


def run_as_toml(spec: RunSpec) -> str:
    """A whole run as a run file, defaults included; `load_run_file` reads the same run from it.

    `steps.stop_beaten` is left out where the run's own file leaves it out: a resumed run asks
    whether its run file says it. A journal's spec leaves nothing out.
    """
    table = spec.model_dump(mode="json", exclude_none=True)
    if "stop_beaten" not in spec.steps.model_fields_set:
        table["steps"].pop("stop_beaten", None)
    return tomli_w.dumps(table)


def read_table(path: Path) -> dict[str, Any]:
    """The tables of a run file with absolute paths, not yet validated. Raises `RunFileError`."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise RunFileError(f"{path}: no such run file", _others_in(path.parent)) from None
    except IsADirectoryError:
        raise RunFileError(f"{path}: a folder, not a run file", _others_in(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunFileError(f"{path}: cannot be read: {error}") from error
    except RecursionError:
        raise RunFileError(f"{path}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise RunFileError(f"{path}: not valid TOML: {error}") from error
    folder = path.resolve().parent
    try:
        for found in paths_in(table, RunSpec):
            if found.path is not None:
                found.table[found.key] = _absolute(found.path, folder)
    except (RuntimeError, ValueError) as error:
        raise RunFileError(f"{path}: {found.place}: a path that cannot be: {error}") from error
    return table


def _absolute(path: str, folder: Path) -> str:
    """A path of a run file in ``folder``. Raises ValueError for a variable that is not set."""
    if not os.path.exists(folder / path):  # noqa: PTH110 - never raises, whatever the path
        path = os.path.expandvars(path)
        if unset := re.search(r"\$(\w+|\{\w+\})", path):
            raise ValueError(f"{unset[0]} is not set in the environment")
    return str((folder / Path(path).expanduser()).resolve())


def _others_in(folder: Path) -> str:
    """A hint at what may have been meant instead."""
    found = sorted(folder.glob("*.toml"))[:3]
    if not found:
        return "name the run's .toml file; examples/ has run files to start from"
    return f"there is {', '.join(map(str, found))}"


def parse_run(table: dict[str, Any], origin: str) -> RunSpec:
    """Validate the tables of a run file; ``origin`` names it in the error.

    Raises `RunFileError` naming every fault at once.
    """
    try:
        return RunSpec.model_validate(table)
    except ValidationError as error:
        found = error.errors()
        meant = {(*fault["loc"][:-1], _meant(fault)) for fault in found}
        faults = [
            line
            for fault in found
            # The key that was meant is not missing as well.
            if not (fault["type"] == "missing" and fault["loc"] in meant)
            for line in _fault_lines(fault)
        ]
        raise not_valid(origin, faults) from None


def not_valid(origin: str, faults: Iterable[str]) -> RunFileError:
    """The error of a run file with all its ``faults``; ``origin`` names the file."""
    what = f"{origin} is not a valid run file:"
    return RunFileError(what, "examples/ has complete run files", faults)


_WORDS = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "tuple_type": "must be a list",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "greater_than": "must be more than {gt}",
    "less_than": "must be less than {lt}",
    "string_pattern_mismatch": f"must be {NAME_RULE}",
    "string_too_short": "must have at least {min_length} character",
}
_LENGTHS = {
    "too_short": "must have at least {min_length} entries, and has {actual_length}",
    "too_long": "must have at most {max_length} entries, and has {actual_length}",
}
"""pydantic's types of errors in words for the author of a run file."""


_KINDS_OF_VALUES = frozenset((*KINDS_OF_SOURCES, *KINDS_OF_TEXTS))
"""What pydantic puts into the places of faults, besides keys."""


def _fault_lines(fault: ErrorDetails) -> list[str]:
    """One line for each thing that pydantic's error says about a key: its place, what is wrong."""
    parts = [str(part) for part in fault["loc"] if part not in _KINDS_OF_VALUES]
    place = ".".join(parts) or "run file"
    match fault["type"]:
        case "extra_forbidden":
            meant = _meant(fault)
            reasons = ["unknown key" + (f": did you mean {meant}?" if meant else "")]
        case "missing":
            reasons = ["missing"]
        case kind if kind in _WORDS:
            words = _WORDS[kind].format(**fault.get("ctx", {}))
            reasons = [f"{words}, not {_shown(fault['input'])}"]
        case kind if kind in _LENGTHS:
            reasons = [_LENGTHS[kind].format(**fault.get("ctx", {}))]
        case _:
            reasons = fault["msg"].removeprefix("Value error, ").splitlines()
    return [f"{place}: {reason}" for reason in reasons]


def _meant(fault: ErrorDetails) -> str:
    """The known key that an unknown one is close to; "" for none, and for any other fault."""
    if fault["type"] != "extra_forbidden":
        return ""
    near = get_close_matches(str(fault["loc"][-1]), _keys_beside(fault["loc"]), 1)
    return near[0] if near else ""


def _keys_beside(place: tuple[int | str, ...]) -> Iterable[str]:
    """The keys of the table that the key at ``place`` is in."""
    kind: type[Section] = RunSpec
    for key in place[:-1]:
        if isinstance(key, str) and key in kind.model_fields:
            kind = section_of(kind.model_fields[key]) or kind
        elif key in KINDS_OF_SOURCES:
            kind = AdaptedSource
    return kind.model_fields


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
