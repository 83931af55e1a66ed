"""`apbmm table`: writes the table of a run to a file or to standard output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast, get_args

from apbmm.results.run_directories import find_run
from apbmm.results.words import REHEARSAL
from apbmm.table.formats import TableFormat
from apbmm_common.errors import EXIT_DONE, UsageError
from apbmm_common.process.whole_files import write_whole


def write_table(
    run: str | None,
    form: TableFormat | None = None,
    out: Path | None = None,
    *,
    outcomes: bool = False,
) -> int:
    """Write the table; returns the exit code. None stands for an option that was not given.

    Raises `UsageError` where there is no run, for Parquet on a terminal, for a file whose ending is
    no format where none is given, and for one that cannot be written.
    """
    from apbmm.results.run_results import read_results
    from apbmm.table.formats import encoded
    from apbmm.table.rows import evaluation_table, outcome_table

    form = _form(form, out)
    results = read_results(find_run(run))
    table = outcome_table(results) if outcomes else evaluation_table(results)
    content = encoded(table, results, form)
    if out is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        try:
            write_whole(out, content)
        except OSError as error:
            raise UsageError(f"{out}: {error.strerror}", "name another --out") from error
        print(f"wrote {out} ({len(table.rows)} rows)", file=sys.stderr)  # noqa: T201
    if results.rehearsal:
        print(REHEARSAL, file=sys.stderr)  # noqa: T201
    return EXIT_DONE


def _form(form: TableFormat | None, out: Path | None) -> TableFormat:
    """The format asked for, or that of the file's name; CSV for a name without ending."""
    if form is None:
        suffix = "" if out is None else out.suffix.removeprefix(".").lower()
        known = get_args(TableFormat)
        if suffix and suffix not in known:
            raise UsageError(
                f"{out}: .{suffix} is no format of a table",
                f"end it in .{', .'.join(known)}, or say which with --format",
            )
        form = cast("TableFormat", suffix or "csv")
    if form == "parquet" and out is None and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal", "name a file with --out")
    return form
