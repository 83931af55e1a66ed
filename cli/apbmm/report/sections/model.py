"""The section on the surrogate: how far its predictions can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apbmm.report.charts.drawing import ReportFigure
from apbmm.report.charts.run_charts import calibration_chart
from apbmm.report.data.model import calibrations
from apbmm.report.document import ReportSection, ReportTable
from apbmm.results.run_results import RunResults

if TYPE_CHECKING:
    from apbmm_master.search.surrogate.gaussian_process import Surrogate

FEWEST = 4
"""With fewer evaluations a prediction from all others says nothing."""


def model_section(results: RunResults, surrogate: Surrogate | None) -> ReportSection | None:
    """Calibration of the surrogate; None without one, and with too few evaluations."""
    if surrogate is None or len(results.merges) < FEWEST:
        return None
    found = dict(zip(results.objectives, calibrations(results, surrogate), strict=True))
    figures = tuple(
        ReportFigure(
            f"calibration-{name}",
            f"Predicted and measured {name}",
            f"Each merge as all others predict it; bars are 95 % intervals. "
            f"{one.covered} of {len(one.predictions)} measurements lie in theirs. The "
            "hyperparameters are those fitted to all merges.",
            calibration_chart(one, name),
        )
        for name, one in found.items()
    )
    table = ReportTable(
        ("objective", "in the 95 % interval", "error of the surrogate", "error of the mean"),
        tuple(
            (name, f"{one.covered}/{len(one.predictions)}", f"{one.error:.4f}", f"{one.spread:.4f}")
            for name, one in found.items()
        ),
        "Root mean square of predicted minus measured, beside that of always predicting the mean.",
    )
    return ReportSection("Surrogate", figures=figures, tables=(table,))
