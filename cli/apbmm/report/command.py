"""`apbmm report`: a run, or several side by side, as one HTML file or as figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from apbmm.compare.runs import read_runs
from apbmm.installed import MASTER_HINT
from apbmm.results.run_directories import find_run
from apbmm.results.run_results import RunResults
from apbmm_common.errors import EXIT_DONE, UsageError
from apbmm_common.process.whole_files import write_whole

if TYPE_CHECKING:
    from apbmm.report.document import Document

ReportFormat = Literal["html", "svg", "png", "pdf"]


def write_report(
    run_dirs: Sequence[Path],
    out: Path | None = None,
    form: ReportFormat = "html",
    *,
    show_hosts: bool = False,
) -> int:
    """Write the report and say where it is; returns the exit code.

    ``out`` is a file for HTML, a folder for figures. By default a report is in the folder of its
    run, a comparison in the current folder; one of the same name is replaced, and that is said.
    Without ``run_dirs`` it is about the run that changed last. With ``show_hosts`` it has whole
    paths and the names of hosts.

    Raises `UsageError` where a folder holds no run, where runs cannot be compared, where the place
    cannot be written, and where the drawing library is not installed.
    """
    runs = read_runs(run_dirs or [find_run(None)])
    try:
        from apbmm.report.charts.drawing import draw
        from apbmm.report.page import page

        document = _document(runs, show_hosts=show_hosts)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a report needs {error.name}, which is not installed",
            MASTER_HINT,
        ) from error
    written = out or _usual_place(runs, form)
    replaced = written.exists()
    try:
        if form == "html":
            write_whole(written, page(document).encode())
        else:
            written.mkdir(parents=True, exist_ok=True)
            for figure in document.figures:
                content = draw(figure, form, rehearsal=document.rehearsal)
                write_whole(written / f"{figure.name}.{form}", content)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}", "name another --out") from error
    mark = "REHEARSAL " if document.rehearsal else ""
    earlier = " (in the place of an earlier one)" if replaced else ""
    sys.stdout.write(f"{mark}report: {written.absolute()}{earlier}\n")
    return EXIT_DONE


def _usual_place(runs: Sequence[RunResults], form: ReportFormat) -> Path:
    """Where a report is written that is given no place."""
    name = "report.html" if form == "html" else "report-figures"
    if len(runs) > 1:
        return Path(name.replace("report", "comparison"))
    return runs[0].run_dir / name


def _document(runs: Sequence[RunResults], *, show_hosts: bool) -> Document:
    """The report of one run, or the comparison of several, which needs no model."""
    if len(runs) == 1:
        from apbmm.report.run_report import run_document

        return run_document(runs[0], show_hosts=show_hosts)
    from apbmm.report.comparison_report import comparison_document

    return comparison_document(runs, show_hosts=show_hosts)
