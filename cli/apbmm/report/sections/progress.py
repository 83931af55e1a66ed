"""The section on how the run went on: hypervolume, size of the front, and the workers."""

from __future__ import annotations

from collections.abc import Iterator

from apbmm.report.charts.drawing import ReportFigure
from apbmm.report.charts.run_charts import gantt_chart, progress_chart
from apbmm.report.data.progress import changes, hours_name, last_attempts, steps, timeline
from apbmm.report.document import ReportSection
from apbmm.report.names import Names
from apbmm.results.run_results import RunResults
from apbmm.results.words import duration
from apbmm_master.journal.assessment.scores import load_rate

MOST_DOTS = 300
"""Of longer runs the evaluations that changed the front are drawn, and the last."""


def progress_section(results: RunResults, names: Names) -> ReportSection | None:
    """Trajectories and Gantt chart; None before a worker joined."""
    if not results.run_state.sessions.stays:
        return None
    return ReportSection(
        "Progress", figures=(*trajectories(results), workers_figure(results, names))
    )


def trajectories(results: RunResults) -> Iterator[ReportFigure]:
    """Hypervolume against evaluations and against GPU-hours; nothing without objectives."""
    found, hours = steps(results), hours_name(results)
    if not found:
        return
    if len(found) > MOST_DOTS:
        found = changes(found)
    point = ", ".join(f"{value:g}" for value in results.spec.hypervolume_reference)
    above = f"Hypervolume above ({point})."
    yield ReportFigure(
        "progress-evaluations",
        "Hypervolume and size of the front against evaluations",
        above,
        progress_chart(found, "completed", "completed evaluations"),
    )
    yield ReportFigure(
        "progress-hours",
        f"Hypervolume and size of the front against {hours}",
        f"{above} The {hours} of the references and of lost work are included, the time in which "
        "workers waited is not.",
        progress_chart(found, "hours", hours),
    )


def workers_figure(results: RunResults, names: Names, most: int | None = None) -> ReportFigure:
    """The Gantt chart, of the last ``most`` attempts if there are more."""
    found = timeline(results)
    recent = found if most is None else last_attempts(found, most)
    begin = "" if recent is found else " The earlier attempts are not drawn."
    rate = load_rate(results.run_state, results.last_at)
    told = "nothing was leased yet" if rate is None else f"{rate:.1%}"
    return ReportFigure(
        "workers",
        "What the workers did",
        f"Load rate of the search: {told}. It is the share of the time that workers were connected "
        "after the initial design in which they had an evaluation. The number beside a worker is "
        f"its own. The run took {duration(results.seconds)}.{begin}",
        gantt_chart(names.timeline(recent)),
    )
