"""`apbmm table`: writes the table of a run to a file or to standard output."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from apbmm.results.run_directories import find_run
from apbmm.results.words import REHEARSAL
from apbmm.table.formats import TableFormat
from apbmm_common.errors import EXIT_DONE, UsageError
from apbmm_common.process.whole_files import write_whole


@dataclass(frozen=True)
class TableRequest:
    """What the command line asks for; None stands for an option that was not given."""

    run: str | None
    outcomes: bool = False
    form: TableFormat | None = None
    out: Path | None = None


def write_table(request: TableRequest) -> int:
    """Write the table; returns the exit code.

    Raises `UsageError` where there is no run, for Parquet on a terminal, and for a file that cannot
    be written.
    """
    from apbmm.results.run_results import read_results
    from apbmm.table.formats import encoded
    from apbmm.table.rows import evaluation_table, outcome_table

    form = _form(request)
    results = read_results(find_run(request.run))
    table = outcome_table(results) if request.outcomes else evaluation_table(results)
    content = encoded(table, results, form)
    if request.out is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        try:
            write_whole(request.out, content)
        except OSError as error:
            raise UsageError(f"{request.out}: {error.strerror}", "name another --out") from error
    if results.rehearsal:
        print(REHEARSAL, file=sys.stderr)  # noqa: T201
    return EXIT_DONE


def _form(request: TableRequest) -> TableFormat:
    """The format asked for, or that of the file's name, or CSV."""
    form = request.form
    if form is None:
        suffix = "" if request.out is None else request.out.suffix.removeprefix(".").lower()
        form = cast("TableFormat", suffix) if suffix in get_args(TableFormat) else "csv"
    if form == "parquet" and request.out is None and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal", "name a file with --out")
    return form
