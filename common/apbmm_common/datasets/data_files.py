"""Data files as rows: JSON Lines, JSON, CSV and Parquet, whatever wrote them.

Byte-order marks are dropped. CSV may be separated by commas, semicolons or tabs, as spreadsheets
write it. Every fault is a `SourceError` that names the file and, where there is one, the row.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from apbmm_common.checkpoint.headers import LFS_POINTER, lfs_pointer
from apbmm_common.errors import SourceError, unreadable

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MOST_NAMED = 3
"""Of several files or rows a message names no more."""
Record = dict[str, Any]
"""A question as its adapter reads it."""

_SEPARATORS = ",;\t"
_EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?')
"""A line that spreadsheets write before the header."""


def is_data_file(path: Path) -> bool:
    """Whether a file is one that `read_rows` reads, by its name.

    Hidden files are not, nor those in which the datasets library describes its tables.
    """
    described = path.name in ("dataset_info.json", "dataset_infos.json", "state.json")
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not described


@dataclass(frozen=True)
class Row:
    """One row of a data file. ``place`` says where it is in the file, counted from 1."""

    file: Path
    place: str
    values: dict[str, Any]

    @property
    def where(self) -> str:
        """File and place, as messages begin with them."""
        return f"{self.file}, {self.place}"

    @property
    def is_blank(self) -> bool:
        """Whether no cell holds anything: a line that a spreadsheet leaves at the end."""
        return all(_is_blank(value) for value in self.values.values())

    def text(self, column: str) -> str | None:
        """A cell as text; None where it is blank. Numbers are written as they are read.

        Raises `SourceError` for a cell that is neither text nor a number, or whose text cannot be
        written as UTF-8.
        """
        value = self.values.get(column)
        if _is_blank(value):
            return None
        if isinstance(value, str):
            _require_characters(value, f"{self.where}: {column!r}")
            return value
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return _number_text(value)
        raise SourceError(
            f"{self.where}: {column!r} is {type(value).__name__} ({json_text(value)}), not text",
            "write it as text or a number",
        )


def read_rows(file: Path) -> list[Row]:
    """All rows of a data file, blank ones included. Raises `SourceError`."""
    require_no_pointer(file)
    try:
        return list(_rows(file))
    except OSError as error:
        raise unreadable(file, error) from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{file}: not UTF-8 text (byte {error.start})", "save it as UTF-8"
        ) from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise SourceError(f"{file}: not valid {file.suffix[1:].upper()}: {error}") from error


def require_no_pointer(file: Path) -> None:
    """Raise `SourceError` if a file is the small text that Git LFS leaves in place of the file."""
    try:
        with file.open("rb") as opened:
            is_pointer = opened.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError as error:
        raise unreadable(file, error) from error
    if is_pointer:
        raise lfs_pointer(file)


def json_text(value: Any) -> str:
    """A value as it may stand in a message: one short line."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def _rows(file: Path) -> Iterator[Row]:
    kind = file.suffix.lower()
    if kind == ".parquet":
        import pyarrow.parquet

        # One file: a path alone would make columns of folders named KEY=VALUE.
        with pyarrow.parquet.ParquetFile(file) as table:
            records = table.read().to_pylist()
        yield from _numbered(file, records)
        return
    text = file.read_text(encoding="utf-8-sig")
    if kind in (".csv", ".tsv"):
        yield from _csv_rows(file, text)
    elif kind == ".json" and text.lstrip().startswith("["):
        yield from _numbered(file, json.loads(text))
    else:  # only a line feed ends a line of JSON Lines
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield _row(file, f"line {number}", _parsed(line, number))


def _numbered(file: Path, records: list[Any]) -> Iterator[Row]:
    for number, record in enumerate(records, 1):
        yield _row(file, f"row {number}", record)


def _row(file: Path, place: str, record: Any) -> Row:
    if not isinstance(record, dict):
        raise SourceError(f"{file}, {place}: {json_text(record)} is not a JSON object")
    return Row(file, place, record)


def _parsed(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: {error}") from None


def _csv_rows(file: Path, text: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the default refuses cells of more than 128 KiB
    first, _, rest = text.partition("\n")
    stated = _EXCEL_SEPARATOR.fullmatch(first.strip("\r"))
    text = rest if stated else text
    header = text.partition("\n")[0]
    separator = stated[1] if stated else max(_SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns = [name.strip() for name in next(reader, [])]
    if twice := [name for name, count in Counter(columns).items() if name and count > 1]:
        raise SourceError(f"{file}: two columns are called {twice[0]!r}", "rename or remove one")
    number = 0
    try:
        for number, cells in enumerate(reader, 1):
            if cells:  # no empty line
                yield _csv_row(file, number, columns, cells)
    except csv.Error as error:
        raise ValueError(f"row {number + 1}: {error}") from None


def _csv_row(file: Path, number: int, columns: list[str], cells: list[str]) -> Row:
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise SourceError(
            f"{file}, row {number}: {len(cells)} cells, but {len(columns)} columns",
            "a cell that holds the separator stands in quotes",
        )
    padded = cells + [""] * (len(columns) - len(cells))
    return Row(file, f"row {number}", dict(zip(columns, padded, strict=False)))


def _is_blank(value: Any) -> bool:
    """Whether a cell holds nothing: no value, no visible text, or the NaN of a missing number."""
    if isinstance(value, str):
        return all(c.isspace() or unicodedata.category(c) == "Cf" for c in value)  # zero width
    if isinstance(value, float | Decimal):
        return math.isnan(value)
    return value is None


def _number_text(value: float | Decimal) -> str:
    """A number as text. Whole numbers have no point: tables with gaps store them as floats."""
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value) and value == int(value) and abs(int(value)) < 2**53:
        return str(int(value))
    return str(value)


def _require_characters(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode-escape").decode()
        raise SourceError(
            f"{what} holds half a character ({half}), which no tokenizer can read",
            "mend or remove the character in the data",
        ) from None
