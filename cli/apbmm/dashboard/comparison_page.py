"""What the page shows of several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from apbmm.dashboard.run_page import Json, sections_as_json
from apbmm.report.comparison_report import comparison_document
from apbmm.results.run_results import RunResults


def comparison(runs: Sequence[RunResults]) -> Json:
    """Table II, trajectories, repetitions and pooled front of several runs.

    Raises `UsageError` where they cannot be compared.
    """
    document = comparison_document(runs, show_hosts=True)
    return {
        "title": document.title,
        "about": document.about,
        "sections": sections_as_json(document.sections),
    }
