"""Tables as CSV, Parquet and JSON."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, Literal

from apbmm.results.json_form import run_as_json
from apbmm.results.run_results import RunResults
from apbmm.table.rows import Table
from apbmm_common.errors import UsageError

TableFormat = Literal["csv", "parquet", "json"]
SCHEMA = 1


def encoded(table: Table, results: RunResults, form: TableFormat) -> bytes:
    """The table in a format. Raises `UsageError` where Parquet cannot be written here."""
    match form:
        case "csv":
            return as_csv(table).encode()
        case "json":
            return (json.dumps(as_json(table, results)) + "\n").encode()
        case "parquet":
            return as_parquet(table, rehearsal=results.rehearsal)


def as_csv(table: Table) -> str:
    """One line of names, one for each row; an empty cell for a missing value."""
    text = io.StringIO()
    names = [column.name for column in table.columns]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def as_json(table: Table, results: RunResults) -> dict[str, Any]:
    """A JSON object with the rows as objects; missing values are null."""
    names = [column.name for column in table.columns]
    return {
        "schema": SCHEMA,
        **run_as_json(results),
        "rows": [{name: row.get(name) for name in names} for row in table.rows],
    }


def as_parquet(table: Table, *, rehearsal: bool) -> bytes:
    """A Parquet file. The meanings of the columns are in their metadata, under ``meaning``."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise UsageError(
            "writing Parquet needs pyarrow, which is not installed", "pip install pyarrow"
        ) from error
    kinds = {
        bool: pyarrow.bool_(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        str: pyarrow.string(),
    }
    fields = [
        pyarrow.field(column.name, kinds[column.kind], metadata={"meaning": column.meaning})
        for column in table.columns
    ]
    schema = pyarrow.schema(fields, metadata={"rehearsal": str(rehearsal).lower()})
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(table.rows), schema), file)
    return file.getvalue()
