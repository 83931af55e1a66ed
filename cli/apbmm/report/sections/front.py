"""The section on the front: objectives, raw figures, and the paper's Table III."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

from apbmm.report.charts.drawing import ReportFigure
from apbmm.report.charts.run_charts import Mark, scatter_chart
from apbmm.report.data.model import pending_predictions
from apbmm.report.data.points import (
    estimates,
    interval,
    measured,
    objective_figures,
    place,
    short_id,
)
from apbmm.report.document import ReportSection, ReportTable
from apbmm.results.confirmation import Confirmation
from apbmm.results.figures import Figure
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm.results.words import figure_in_words

if TYPE_CHECKING:
    from apbmm_master.search.surrogate.gaussian_process import Surrogate


CONFIRMED = (
    " Triangles are merges as they were confirmed, scaled by the references on the same questions."
)


def front_section(
    results: RunResults, surrogate: Surrogate | None, confirmation: Confirmation | None = None
) -> ReportSection | None:
    """Figures of all measured merges and the table of the front; None without objectives."""
    if not measured(results):
        return None
    return ReportSection(
        "Front",
        figures=(
            *_objective_figures(results, surrogate, confirmation),
            *_benchmark_figures(results),
        ),
        tables=(front_table(results),),
    )


def labels(results: RunResults) -> dict[str, str]:
    """What is written beside the points of the front and of the references: their ids, short."""
    return {name: short_id(name) for name in (*(e.id for e in results.front), *results.references)}


def _objective_figures(
    results: RunResults, surrogate: Surrogate | None, confirmation: Confirmation | None
) -> Iterator[ReportFigure]:
    names, called = results.objectives, labels(results)
    expected = pending_predictions(results, surrogate) if surrogate else {}
    found = [(each, objective_figures(results, each)) for each in measured(results)]
    confirmed, estimated = _confirmed_figures(confirmation), estimates(results)
    for first, second in combinations(range(len(names)), 2):
        x, y = names[first], names[second]
        marks = [
            _mark(
                each,
                called,
                (figures[first], figures[second]),
                f"{x} {figures[first].value:.4f}, {y} {figures[second].value:.4f}",
            )
            for each, figures in found
        ]
        marks += [
            Mark("pending", name, row[first], row[second], f"{name}, as the surrogate predicts it")
            for name, row in expected.items()
        ]
        marks += [
            _estimated_mark(name, (row[first], row[second]), (x, y))
            for name, row in estimated.items()
        ]
        marks += [
            _confirmed_mark(name, (figures[first], figures[second]), (x, y))
            for name, figures in confirmed.items()
        ]
        yield ReportFigure(
            f"objectives-{x}-{y}",
            f"Objectives: {x} and {y}",
            "Eq. 2: 1 is the source that is good at it, 0 the other, or what the run file says; "
            "more is better. Labels are "
            "ids (e17 is e0017), as far as there is room. Bars are 95 % intervals: how "
            "far a merge may be from what it would reach on more questions of the same kind."
            f"{CONFIRMED if confirmed else ''}",
            scatter_chart(marks, x, y, stairs=len(names) == 2 and bool(results.front)),
        )


def _confirmed_figures(confirmation: Confirmation | None) -> dict[str, tuple[Figure, ...]]:
    """The objectives of the merges as they were confirmed; empty where there are none."""
    if confirmation is None or confirmation.run.trouble:
        return {}
    return {
        merge.id: objective_figures(confirmation.run, merge.confirmed)
        for merge in confirmation.merges
        if merge.confirmed.objectives is not None and merge.id not in confirmation.run.references
    }


def _estimated_mark(name: str, figures: tuple[Figure, Figure], axes: tuple[str, str]) -> Mark:
    said = ", ".join(
        f"{axis} ~ {figure.value:.3f} ± {figure.standard_error:.3f}"
        for axis, figure in zip(axes, figures, strict=True)
    )
    about = f"{name}, estimated from a part of the answers: {said}"
    return Mark("estimated", name, figures[0].value, figures[1].value, about)


def _confirmed_mark(name: str, figures: tuple[Figure, Figure], axes: tuple[str, str]) -> Mark:
    x, y = figures
    about = f"{name}, confirmed: {axes[0]} {x.value:.4f}, {axes[1]} {y.value:.4f}"
    return Mark(
        "confirmed", name, x.value, y.value, about, x_interval=interval(x), y_interval=interval(y)
    )


def _mark(
    each: EvaluationResult, called: dict[str, str], figures: tuple[Figure, Figure], values: str
) -> Mark:
    """A point of a scatter chart; intervals of dominated points would hide the others."""
    x, y = figures
    shows = place(each) not in ("dominated", "broken")
    beyond = f"; breaks {', '.join(each.breaks)}" if each.breaks else ""
    return Mark(
        place(each),
        each.id,
        x.value,
        y.value,
        f"{each.id}: {values}{beyond}",
        called.get(each.id, ""),
        interval(x) if shows else None,
        interval(y) if shows else None,
    )


def _benchmark_figures(results: RunResults) -> Iterator[ReportFigure]:
    called = labels(results)
    for benchmark in results.spec.benchmarks:
        marks = []
        for each in measured(results):
            found = each.benchmarks[benchmark.name]
            tokens, accuracy = found.figure("tokens"), found.figure("accuracy")
            if tokens is not None and accuracy is not None:
                values = f"accuracy {accuracy.value:.1%}, {tokens.value:.1f} tokens"
                marks.append(_mark(each, called, (tokens, accuracy), values))
        if marks:
            yield ReportFigure(
                f"benchmark-{benchmark.name}",
                f"Accuracy and tokens on {benchmark.name}",
                "Upper left is better: more right answers for fewer tokens. Bars are 95 % "
                "intervals. All merges answer the same questions, so that part of the noise is "
                "common to all.",
                scatter_chart(marks, "generated tokens a question", "accuracy"),
            )


def front_table(results: RunResults) -> ReportTable:
    """Every merge on the front with its objectives and raw figures, then the references."""
    names = results.shown_metrics
    shown = [*reversed(results.front), *results.references.values()]
    columns = [
        (benchmark.name, name)
        for benchmark in results.spec.benchmarks
        for name in names
        if any(name in each.benchmarks[benchmark.name].metrics for each in shown)
    ]
    raw = tuple(f"{benchmark} {name}" for benchmark, name in columns)
    return ReportTable(
        ("evaluation", *results.objectives, *raw, "seconds"),
        tuple(
            (
                each.id,
                *(f"{value:.4f}" for value in each.objectives or ()),
                *(
                    figure_in_words(name, each.benchmarks[where].figure(name))
                    for where, name in columns
                ),
                f"{each.seconds:.1f}",
            )
            for each in shown
        ),
        "Merges on the front, then the references (as the paper's Table III). Brackets hold 95 % "
        "intervals, ± is a standard error.",
        words=1,
    )
