"""The report of several runs: Table II, the pooled front, and what repetitions say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from apbmm.compare.runs import Comparison, compare
from apbmm.compare.view import GROUP_HEADINGS, GROUPS_CAPTION, group_cells, in_words, row_cells
from apbmm.report.charts.comparison_charts import fronts_chart, group_chart, trajectories_chart
from apbmm.report.charts.drawing import ReportFigure
from apbmm.report.data.comparison import PooledPoint, pooled_points, trajectories
from apbmm.report.document import Document, ReportSection, ReportTable
from apbmm.report.names import short_path
from apbmm.results.run_results import RunResults

HEADINGS = (
    *("run", "method", "seed", "hypervolume", "Spacing", "contribution"),
    *("front", "load rate", "time", "done", "failed"),
)


def comparison_document(runs: Sequence[RunResults], *, show_hosts: bool = False) -> Document:
    """The report of several runs, with whole paths of their folders if ``show_hosts``.

    Raises `UsageError` when they cannot be compared.
    """
    if not show_hosts:
        runs = list(_with_short_labels(runs))
    found, points = compare(runs), pooled_points(runs)
    sections = (
        ReportSection("In plain words", paragraphs=tuple(_words(found)), has_leads=True),
        ReportSection("Runs", figures=tuple(_progress(runs)), tables=(runs_table(found),)),
        _repetitions(found),
        _fronts(found, points),
    )
    return Document(
        title=f"{len(runs)} runs compared",
        about=f"Objectives {', '.join(found.objectives)}.",
        sections=tuple(section for section in sections if section is not None),
        rehearsal=found.rehearsal,
    )


def _with_short_labels(runs: Sequence[RunResults]) -> Iterator[RunResults]:
    """The runs, each called by the last parts of its folder, and by its name where these repeat."""
    short = [short_path(run.label) for run in runs]
    for run, label in zip(runs, short, strict=True):
        yield replace(run, label=f"{label} ({run.run})" if short.count(label) > 1 else label)


def _words(found: Comparison) -> Iterator[str]:
    ranked = sorted(
        (row for row in found.rows if row.hypervolume is not None),
        key=lambda row: row.hypervolume or 0.0,
        reverse=True,
    )
    if not ranked:
        yield "Found: nothing yet, because no run has objectives."
    else:
        best = ranked[0]
        yield (
            f"Found: {best.run} ({best.method}) has the largest hypervolume, "
            f"{best.hypervolume:.4f}, and gives {best.contribution} of the {found.pooled_front} "
            "points of the pooled front."
        )
    for test in found.repetitions.tests:
        yield f"Found: {in_words(test)}."
    if not found.repetitions.groups:
        yield (
            "Doubt: no method was run with several seeds. A difference between single runs may be "
            "chance."
        )
    for row in found.rows:
        if row.state != "finished":
            yield f"Doubt: {row.run} is {row.state}."
    for note in found.notes:
        yield f"Doubt: {note}."


def runs_table(found: Comparison) -> ReportTable:
    """The paper's Table II."""
    point = ", ".join(f"{value:g}" for value in found.reference_point)
    return ReportTable(
        HEADINGS,
        tuple(tuple(row_cells(row, found.pooled_front)) for row in found.rows),
        f"As the paper's Table II. Hypervolume above ({point}); load rate and time are those of "
        "the search after its initial design.",
        words=2,
    )


def _progress(runs: Sequence[RunResults]) -> Iterator[ReportFigure]:
    found = trajectories(runs)
    if found:
        yield ReportFigure(
            "trajectories",
            "Hypervolume against evaluations",
            "A line for each run, a colour for each method. All runs are scaled by one measurement "
            "of the references.",
            trajectories_chart(found),
        )


def _repetitions(found: Comparison) -> ReportSection | None:
    groups = found.repetitions.groups
    if not groups:
        return None
    return ReportSection(
        "Repetitions",
        paragraphs=tuple(f"{in_words(test)}." for test in found.repetitions.tests),
        figures=(
            ReportFigure(
                "repetitions",
                "Hypervolume over seeds",
                f"Means {GROUPS_CAPTION}. With five or fewer pairs the test cannot reach p < 0.05.",
                group_chart(groups),
            ),
        ),
        tables=(
            ReportTable(
                GROUP_HEADINGS,
                tuple(tuple(group_cells(group)) for group in groups),
                f"Means over finished runs of one method, {GROUPS_CAPTION}.",
            ),
        ),
    )


def _fronts(found: Comparison, points: Sequence[PooledPoint]) -> ReportSection | None:
    if not points:
        return None
    names = found.objectives
    figures = tuple(
        ReportFigure(
            f"fronts-{names[first]}-{names[second]}",
            f"Fronts: {names[first]} and {names[second]}",
            "The front of each run. Filled points are on the front of all runs pooled.",
            fronts_chart(points, names, (first, second)),
        )
        for first, second in combinations(range(len(names)), 2)
    )
    pooled = [point for point in points if point.pooled]
    table = ReportTable(
        ("method", "run", "evaluation", *names),
        tuple(
            (point.series, point.run, point.evaluation, *(f"{v:.4f}" for v in point.objectives))
            for point in sorted(pooled, key=lambda point: point.objectives, reverse=True)
        ),
        "The pooled front.",
        words=3,
    )
    return ReportSection("Fronts", figures=figures, tables=(table,))
