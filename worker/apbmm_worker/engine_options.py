"""vLLM's own arguments from a worker's command line: ``--engine-arg KEY=VALUE``. Pure.

Text becomes a value by the type that the installed vLLM gives the argument, so nothing is guessed:
``0`` is a number for one argument and a name for another.
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from apbmm_common.errors import UsageError
from apbmm_common.run_file.engine_limits import RESERVED

# The run file has a value for every worker; a host may know better about its own card.
_OF_THE_HOST = frozenset({"gpu_memory_utilization"})
_WORDS = {"true": True, "false": False}


def parse_engine_arguments(items: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` items; the key as vLLM writes it, with dashes or underscores.

    Raises `UsageError` for anything else, a repetition, or what apbmm decides itself.
    """
    arguments: dict[str, str] = {}
    for item in items:
        key, separator, value = item.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if not (separator and name.isidentifier()):
            raise UsageError(f"--engine-arg {item}: expected KEY=VALUE", "as in max_num_seqs=64")
        if name in RESERVED - _OF_THE_HOST:
            raise UsageError(
                f"--engine-arg {name}: apbmm sets this itself",
                "the run file decides it, or --gpu does",
            )
        if name in arguments:
            raise UsageError(f"--engine-arg {name} is given twice")
        arguments[name] = value.strip()
    return arguments


def typed_arguments(arguments: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Values for ``arguments``; ``known`` has the type of each of vLLM's.

    Raises `UsageError` for a name that vLLM does not have or a value that is not of its type.
    """
    values = {}
    for name, text in arguments.items():
        if name not in known:
            raise UsageError(
                f"--engine-arg {name}: the installed vLLM has no such engine argument",
                meant_instead(name, known),
            )
        values[name] = _value(name, text, known[name])
    return values


def meant_instead(
    text: str, known: Iterable[str], otherwise: str = "vllm serve --help lists them"
) -> str:
    """A hint at those of ``known`` (vLLM's arguments) that are spelled much like ``text``."""
    spelled = {one.lower(): one for one in known}
    close = [spelled[one] for one in difflib.get_close_matches(text.lower(), spelled, n=3)]
    return f"close to it: {', '.join(close)}" if close else otherwise


def _value(name: str, text: str, wanted: Any) -> Any:
    options = _options(wanted)
    for option in options:
        try:
            return _read(text, option)
        except ValueError:
            continue
    choices = [spelled for option in options for spelled in _spellings(option)]
    raise UsageError(
        f"--engine-arg {name}: {text!r} is not {' or '.join(map(_name, options))}",
        meant_instead(text, choices, "vllm serve --help says what it takes"),
    )


def _options(wanted: Any) -> list[Any]:
    """The members of a union, text last: every value is a text as well."""
    if get_origin(wanted) in (Union, types.UnionType):
        members = [member for part in get_args(wanted) for member in _options(part)]
        return sorted(members, key=lambda member: (member is str, member is types.NoneType))
    if get_origin(wanted) is Literal:
        return [Literal[choice] for choice in get_args(wanted)]
    return [wanted]


def _read(text: str, wanted: Any) -> Any:
    """``text`` as one type. Raises ValueError."""
    if spellings := _spellings(wanted):
        for spelled in (text, text.upper()):  # the names in vLLM's enumerations are in capitals
            if spelled in spellings:
                return spellings[spelled]
        raise ValueError(text)
    if wanted is types.NoneType:
        if text.lower() == "none":
            return None
        raise ValueError(text)
    if wanted is bool:
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        raise ValueError(text)
    if wanted in (int, float):
        return wanted(text)
    if wanted is str:
        return text
    # A list, a table or a configuration object, which vLLM makes of a table.
    return json.loads(text)


def _spellings(wanted: Any) -> dict[str, Any]:
    """The values of a type that has a few, by how they are written; empty for other types."""
    if get_origin(wanted) is Literal:
        return {str(choice): choice for choice in get_args(wanted)}
    if not (isinstance(wanted, type) and issubclass(wanted, Enum)):
        return {}
    # vLLM itself makes members of names; those of numbers may be given as such, too.
    members = wanted.__members__.items()
    values = {name: member.value if issubclass(wanted, int) else name for name, member in members}
    return values | {str(value): value for value in values.values()}


def _name(wanted: Any) -> str:
    if get_origin(wanted) is Literal:
        return repr(get_args(wanted)[0])
    if spellings := _spellings(wanted):
        return f"one of {', '.join(spellings)}"
    names = {types.NoneType: "none", bool: "true or false", int: "an integer", float: "a number"}
    return names.get(wanted, "JSON") if wanted is not str else "text"
