"""The questions among a benchmark's rows, each as its adapter reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from apbmm_common.datasets.benchmark_folders import notes
from apbmm_common.datasets.benchmark_folders.layouts import Layout
from apbmm_common.datasets.benchmark_folders.split_files import subset_of
from apbmm_common.datasets.data_files import Record, Row
from apbmm_common.errors import DataError
from apbmm_common.run_file.sections.benchmarks import ANSWER_ADAPTER


@dataclass(frozen=True)
class Questions:
    """The questions among a benchmark's rows.

    Attributes:
        records: what their adapter reads, by position.
        strata: what each of them is drawn beside, by position.
        skipped: why a row is no question, by the positions of these rows.
        notes: what surprises in the rows, one line each.
    """

    records: dict[int, Record]
    strata: dict[int, str]
    skipped: dict[int, str]
    notes: tuple[str, ...]


def read_questions(adapter: str, layout: Layout, rows: Sequence[Row]) -> Questions:
    """What of the rows is asked. Raises `DataError` for a row that the adapter could not use."""
    records: dict[int, Record] = {}
    strata: dict[int, str] = {}
    skipped: dict[int, str] = {}
    ids: Counter[str] = Counter()
    for position, row in enumerate(rows):
        lack = _lack(adapter, layout, row)
        if lack is not None:
            skipped[position] = lack
            continue
        record: Record = {column: _cell(layout, row, column) for column in layout.columns}
        record |= {column: row.text(column) or "" for column in layout.optional}
        if layout.id:
            own = row.text(layout.id) or str(position)
            ids[own] += 1
            record[layout.id] = own if ids[own] == 1 else f"{own}#{position}"
        try:
            completed = layout.complete(record, row)
        except ValueError as error:
            raise DataError(f"{row.where}: {error}") from None
        if completed is None:
            skipped[position] = "holds no question or no answer"
            continue
        records[position] = completed
        strata[position] = _stratum(layout, row)
    told = (*notes.on_rows(rows, skipped, ids), *notes.on_choices(rows, records))
    if not records:
        raise DataError("; ".join(["its data holds no questions", *told]))
    return Questions(records, strata, skipped, told)


def _lack(adapter: str, layout: Layout, row: Row) -> str | None:
    """Why a row is no question; None for a question. Raises `DataError` for a missing column."""
    if row.is_blank:
        return "is blank"
    for column in layout.columns:
        if not any(name in row.values for name in _names(layout, column)):
            seen = ", ".join(map(str, row.values))
            near = get_close_matches(column, row.values, 1) if adapter == ANSWER_ADAPTER else []
            raise DataError(
                f"{row.where}: there is no {column!r}, only {seen}",
                f'did you mean "{near[0]}"?'
                if near
                else f"{adapter} reads {', '.join(layout.columns)}",
            )
        if _cell(layout, row, column) is None:
            return f"has a blank {column!r}"
    return None


def _names(layout: Layout, column: str) -> tuple[str, ...]:
    """A column's names in data files."""
    return (column, *layout.instead.get(column, ()))


def _cell(layout: Layout, row: Row, column: str) -> str | None:
    """The cell of a column under the first of its names that is not blank."""
    return next((text for name in _names(layout, column) if (text := row.text(name))), None)


def _stratum(layout: Layout, row: Row) -> str:
    """What a row is drawn beside."""
    if layout.by_subset:
        return subset_of(row.file, layout.split)
    return row.text(layout.stratum) or "" if layout.stratum else ""
