"""`apbmm report`: a run, or several side by side, as one HTML file or as figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from apbmm.compare.runs import read_runs
from apbmm_common.errors import EXIT_DONE, UsageError
from apbmm_common.process.whole_files import write_whole

ReportFormat = Literal["html", "svg", "png", "pdf"]
PAGE, FIGURES = Path("report.html"), Path("report-figures")


@dataclass(frozen=True)
class ReportRequest:
    """What the command line asks for; ``out`` is a file for HTML, a folder for figures."""

    run_dirs: Sequence[Path]
    out: Path | None = None
    form: ReportFormat = "html"


def write_report(request: ReportRequest) -> int:
    """Write the report and say where it is; returns the exit code.

    Raises `UsageError` where a folder holds no run, where runs cannot be compared, where the place
    cannot be written, and where the drawing library is not installed.
    """
    runs = read_runs(request.run_dirs)
    try:
        from apbmm.report.drawing import draw
        from apbmm.report.page import page
        from apbmm.report.run_report import run_document
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a report needs {error.name}, which is not installed",
            "pip install 'apbmm[master]' has all that it needs",
        ) from error
    document = run_document(runs[0])
    try:
        if request.form == "html":
            written = request.out or PAGE
            write_whole(written, page(document).encode())
        else:
            written = request.out or FIGURES
            written.mkdir(parents=True, exist_ok=True)
            for figure in document.figures:
                content = draw(figure, request.form, rehearsal=document.rehearsal)
                write_whole(written / f"{figure.name}.{request.form}", content)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}", "name another --out") from error
    mark = "REHEARSAL " if document.rehearsal else ""
    sys.stdout.write(f"{mark}report: {written}\n")
    return EXIT_DONE
