"""The run-file reference as Markdown, made from the schema and the registries.

Everything in it comes from where it is defined: keys, types, ranges, defaults and descriptions from
`apbmm_common.run_file`, metrics and merge methods from their registries in `apbmm_common`, search
methods and their settings from `apbmm_master.search`. So a new key, metric, method or setting is in
the reference as soon as it exists.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from apbmm_common.merge_methods import METHODS
from apbmm_common.metrics import METRICS
from apbmm_common.run_file import RunSpec
from apbmm_common.run_file.descriptions import description
from apbmm_common.run_file.paths import section_of
from apbmm_common.run_file.sections.section import NAME_RULE, HostPath, NamesSource, Section, Unit
from apbmm_master.search.methods import method_class, names

_COMPARISONS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))
_LARGEST_EXACT = 2**53
_TABLES = {section_of(info) for info in RunSpec.model_fields.values()}


def run_file_reference() -> str:
    """The whole reference. Imports the search methods, and PyTorch with them."""
    tables = [(key, info) for key, info in RunSpec.model_fields.items() if section_of(info)]
    parts = ["## Top of the file", *_table(RunSpec)]
    for key, info in tables:
        kind = section_of(info)
        assert kind is not None
        heading = f"[[{key}]]" if get_origin(info.annotation) is tuple else f"[{key}]"
        needed = " (required)" if info.is_required() else ""
        parts += [f"## `{heading}`{needed}", inspect.getdoc(kind) or "", *_table(kind)]
        if key == "objectives":
            parts += _metrics()
        if key == "merge":
            parts += _merge_methods()
        if key == "algorithm":
            parts += _search_methods()
        for inner, section in own_tables(kind):
            parts += [f"## `[[{key}.{inner}]]`", inspect.getdoc(section) or "", *_table(section)]
    return "\n\n".join(parts) + "\n"


def keys(kind: type[Section] = RunSpec, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key of the run file that is not a table, by its dotted name, with what it means.

    Tables within `[confirm]` have the keys of those at the top, which are named once.
    """
    for key, info in kind.model_fields.items():
        inner = section_of(info)
        if inner is None:
            yield prefix + key, description(kind.__name__, key)
        elif not prefix or inner not in _TABLES:
            yield from keys(inner, f"{prefix}{key}.")


def own_tables(kind: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    """The tables within a table that are not also at the top of the file, by their keys."""
    for key, info in kind.model_fields.items():
        inner = section_of(info)
        if inner is not None and inner not in _TABLES:
            yield key, inner


def _table(kind: type[Section]) -> Iterator[str]:
    """One row for each key of a section that is not a table itself."""
    hints = get_type_hints(kind, include_extras=True)
    rows = [("a name", "path", "required", kind.other_keys)] if kind.other_keys else []
    rows += [
        (f"`{key}`", _type(hints[key]), _default(info), description(kind.__name__, key))
        for key, info in kind.model_fields.items()
        if section_of(info) is None
    ]
    yield _markdown(("key", "type", "default", "meaning"), rows)


def _metrics() -> Iterator[str]:
    """The metrics that an objective may name."""
    yield "### Metrics"
    yield (
        "Besides these, an objective may name any score that EvalScope reports on each of its "
        "benchmarks, by its name in that report: `f1`, say, or `accuracy:pass_at_k[k=4]` for a "
        "score that is not a mean over the questions. Of these more is better."
    )
    rows = [(f"`{m.name}`", m.meaning, m.better) for m in METRICS.values()]
    yield _markdown(("`metric`", "mean over the questions of", "better"), rows)


def _merge_methods() -> Iterator[str]:
    """The model-level merge methods, each with its parameters."""
    yield "### Merge methods"
    yield (
        "The layer-wise methods merge by the weighted sum of Eq. 4. Every other method has a "
        "grid search, which `name` in `[algorithm]` chooses; `[merge.parameters]` sets parameters "
        "that the grid does not vary."
    )
    rows = [
        (
            f"`{method.search_name}`",
            method.citation,
            f"`{parameter.name}`",
            parameter.interval,
            f"{parameter.default:g}" + (", varied by the grid" if parameter.grid else ""),
            parameter.meaning,
        )
        for method in METHODS.values()
        for parameter in method.parameters
    ]
    yield _markdown(("`name`", "source", "parameter", "range", "default", "meaning"), rows)


def _search_methods() -> Iterator[str]:
    """The search methods, each with its settings."""
    yield "### Search methods"
    yield _markdown(
        ("`name`", "method"),
        [(f"`{name}`", _first_sentence(method_class(name))) for name in names()],
    )
    yield "### Settings of the search methods"
    yield "Keys of `[algorithm.settings]`. Methods that are not listed have none."
    for settings, of in _settings_types().items():
        yield "#### " + ", ".join(f"`{name}`" for name in of)
        # A subclass describes only the settings that it adds.
        kinds = [kind for kind in reversed(settings.__mro__) if dataclasses.is_dataclass(kind)]
        yield from (inspect.cleandoc(kind.__doc__ or "") for kind in kinds)
        hints = get_type_hints(settings, include_extras=True)
        rows = [
            (f"`{field.name}`", _type(hints[field.name]), _value(field.default))
            for field in dataclasses.fields(settings)
        ]
        yield _markdown(("setting", "type", "default"), rows)


def _settings_types() -> dict[type[Any], list[str]]:
    """The names of the methods that share each class of settings, without empty ones."""
    found: dict[type[Any], list[str]] = {}
    for name in names():
        settings = method_class(name).settings_type
        if dataclasses.fields(settings):
            found.setdefault(settings, []).append(name)
    return found


def _first_sentence(kind: type[Any]) -> str:
    return (inspect.getdoc(kind) or "").split("\n\n", maxsplit=1)[0].replace("\n", " ")


def _markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# ---- types and defaults in words ---------------------------------------------------------------


def _type(hint: Any) -> str:  # noqa: PLR0911 - one for each kind of type
    """An annotation in words: ``whole number ≥ 1, in tokens``."""
    marks: list[Any] = []
    while get_origin(hint) is Annotated:
        hint, *inner = get_args(hint)
        marks = [*inner, *marks]
    hint = _taken(hint, marks)
    marks = [mark for mark in marks if not isinstance(mark, BeforeValidator)]
    if get_origin(hint) in {Union, UnionType}:
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        return " or ".join(_type(Annotated[(kind, *marks)] if marks else kind) for kind in kinds)
    if get_origin(hint) is Literal:
        return _alternatives([f"`{_value_text(value)}`" for value in get_args(hint)])
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        return f"list of: {_type(Annotated[(item, *marks)] if marks else item)}"
    if get_origin(hint) is dict or hint is dict:
        return "table"
    if hint is bool:
        return "`true` or `false`"
    if hint in {int, float}:
        number = "whole number" if hint is int else "number"
        return number + _range(marks) + _unit(marks)
    if words := _marked(marks):
        return words
    pattern = any(getattr(item, "pattern", None) for item in _flat(marks))
    return f"text of {NAME_RULE}" if pattern else "text"


def _taken(hint: Any, marks: Iterable[Any]) -> Any:
    """What a key takes: more than what it becomes, where a validator says so."""
    taken = (m.json_schema_input_type for m in marks if isinstance(m, BeforeValidator))
    return next(taken, hint)


def _marked(marks: Iterable[Any]) -> str:
    """What a text is by the schema's marks, a path or a source's name; "" without a mark."""
    for mark in marks:
        if isinstance(mark, HostPath):
            return "path"
        if isinstance(mark, NamesSource):
            return _alternatives([*(f"`{other}`" for other in mark.others), "the name of a source"])
    return ""


def _flat(marks: Iterable[Any]) -> list[Any]:
    """Marks of a type, with those within a `Field`."""
    return [item for mark in marks for item in getattr(mark, "metadata", [mark])]


def _range(marks: Iterable[Any]) -> str:
    found = _flat(marks)
    bounds = [
        f"{sign} {getattr(mark, name)}"
        for kind, name, sign in _COMPARISONS
        for mark in found
        if isinstance(mark, kind) and abs(getattr(mark, name)) < _LARGEST_EXACT
    ]
    return f" {' and '.join(bounds)}" if bounds else ""


def _unit(marks: Iterable[Any]) -> str:
    return "".join(f", in {mark.name}" for mark in marks if isinstance(mark, Unit))


def _alternatives(values: list[str]) -> str:
    return " or ".join([*([", ".join(values[:-1])] if values[:-1] else []), values[-1]])


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    return _value(info.get_default(call_default_factory=True))


def _value(value: object) -> str:
    """A default as it would be written in the run file."""
    return "none" if value is None or value in ({}, ()) else f"`{_value_text(value)}`"


def _value_text(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case tuple() | list():
            return f"[{', '.join(map(_value_text, value))}]"
    return str(value)
