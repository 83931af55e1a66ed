"""Tables and paths within tables, by the annotations of their keys."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from apbmm_common.run_file.sections.section import HostPath, Section


def section_of(info: FieldInfo) -> type[Section] | None:
    """The kind of table that a key holds, alone or in a list; None for any other key."""
    kind = info.annotation
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def path_mark(info: FieldInfo) -> HostPath | None:
    """The mark of a key that is a path; None for any other key."""
    return next((mark for mark in info.metadata if isinstance(mark, HostPath)), None)


@dataclass(frozen=True)
class FoundPath:
    """A path in plain tables or a list: ``table[key]``.

    ``place`` is its dotted key in the whole run file.
    """

    place: str
    name: str
    table: Any
    key: str | int

    @property
    def path(self) -> str | None:
        """The path; None where an optional one is left out."""
        path: str | None = self.table[self.key]
        return path


def paths_in(
    table: MutableMapping[str, Any], kind: type[Section], prefix: str = ""
) -> Iterator[FoundPath]:
    """Every key of ``table`` and the tables in it that is marked as a path.

    The table need not be valid: what is not of the expected type is passed over.
    """
    for key, info in kind.model_fields.items():
        value, mark, section = table.get(key), path_mark(info), section_of(info)
        if mark is not None and key in table and isinstance(value, str | None):
            name = str(table.get(mark.named, "")) if mark.named else key
            yield FoundPath(prefix + key, name, table, key)
        elif mark is not None and isinstance(value, list) and _takes_list(info):
            name = str(table.get(mark.named, "")) if mark.named else key
            for index, item in enumerate(value):
                if isinstance(item, str):
                    yield FoundPath(f"{prefix}{key}.{index}", name, value, index)
        elif section is not None and isinstance(value, list | tuple):
            for index, item in enumerate(value):
                if isinstance(item, MutableMapping):
                    yield from paths_in(item, section, f"{prefix}{key}.{index}.")
        elif section is not None and isinstance(value, MutableMapping):
            yield from paths_in(value, section, f"{prefix}{key}.")
    yield from _other_paths(table, kind, prefix)


def _other_paths(
    table: MutableMapping[str, Any], kind: type[Section], prefix: str
) -> Iterator[FoundPath]:
    """The keys of the author's own choice, each of which names a path."""
    others = [key for key in table if key not in kind.model_fields] if kind.other_keys else []
    for key in others:
        value = table[key]
        if isinstance(value, str):
            yield FoundPath(prefix + key, key, table, key)
        elif isinstance(value, MutableMapping):
            for part, name in (("path", key), ("adapter", adapter_path_name(key))):
                if isinstance(value.get(part), str):
                    yield FoundPath(f"{prefix}{key}.{part}", name, value, part)


def adapter_path_name(source: str) -> str:
    """The name of the path of a source's adapter, by which a worker maps it."""
    return f"{source}.adapter"


def _takes_list(info: FieldInfo) -> bool:
    return any(get_origin(kind) is tuple for kind in get_args(info.annotation))


def path_names(kind: type[Section]) -> frozenset[str]:
    """Names that keys give to paths; other paths are named by the run file."""
    found: set[str] = set()
    for key, info in kind.model_fields.items():
        mark, section = path_mark(info), section_of(info)
        if mark is not None and not mark.named:
            found.add(key)
        elif section is not None:
            found |= path_names(section)
    return frozenset(found)
