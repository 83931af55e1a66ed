"""Write a run as TOML that `load_run_file` reads back to the same run."""

from __future__ import annotations

import json
import re
from typing import Any

from apbmm_common.run_file import RunSpec

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def run_as_toml(spec: RunSpec) -> str:
    """The whole run, defaults included, one table a section."""
    lines, tables = [], []
    for key, value in spec.model_dump(mode="json", exclude_none=True).items():
        if isinstance(value, dict):
            tables += ["", f"[{_key(key)}]", *_pairs(value)]
        elif value and isinstance(value, list) and all(isinstance(v, dict) for v in value):
            for item in value:
                tables += ["", f"[[{_key(key)}]]", *_pairs(item)]
        else:
            lines.append(f"{_key(key)} = {_value(value)}")
    return "\n".join([*lines, *tables]) + "\n"


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in table.items()]


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _string(name)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return _string(value)
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            return f"{{{', '.join(_pairs(value))}}}"
    raise TypeError(f"{value!r} has no place in TOML")


def _string(text: str) -> str:
    # TOML's basic strings are JSON's, but for the delete character and escaped surrogates.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
