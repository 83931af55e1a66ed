"""The report of one run: which sections it has, and what they say."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import combinations

from apbmm.compare.runs import Run
from apbmm.compare.view import duration
from apbmm.report.charts import Mark, gantt_chart, progress_chart, scatter_chart
from apbmm.report.document import Document, Section, Table
from apbmm.report.drawing import Figure
from apbmm.report.points import Point, front_points, points
from apbmm.report.progress import hours_name, steps, timeline
from apbmm_common.metrics import metric, shown_metrics
from apbmm_master.journal.scores import load_rate

NORMAL_95 = 1.96
"""Half width of a 95 % interval in standard deviations."""


def run_document(run: Run) -> Document:
    """The report of ``run``, finished or not."""
    measured = points(run.run_state)
    sections = [_front_section(run, measured), _progress_section(run)]
    state = run.run_state
    return Document(
        title=f"{run.spec.name}: {run.spec.algorithm.name}",
        about=f"Run {state.run} in {run.name}, as of {_moment(state.time)}.",
        sections=tuple(section for section in sections if section is not None),
        rehearsal=run.spec.evaluation.kind == "rehearsal",
    )


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


# ---- the front ---------------------------------------------------------------------------------


def _front_section(run: Run, measured: Sequence[Point]) -> Section | None:
    if not measured:
        return None
    return Section(
        "Front",
        figures=(*_objective_figures(run, measured), *_benchmark_figures(run, measured)),
        tables=(front_table(run, measured),),
    )


def labels(measured: Sequence[Point]) -> dict[str, str]:
    """What each labelled point is called in figures: its number on the front, or its name."""
    numbers = {p.evaluation: str(i) for i, p in enumerate(front_points(measured), 1)}
    return numbers | {p.evaluation: p.evaluation for p in measured if p.place == "reference"}


def _objective_figures(run: Run, measured: Sequence[Point]) -> Iterator[Figure]:
    names = [objective.name for objective in run.spec.objectives]
    called = labels(measured)
    for first, second in combinations(range(len(names)), 2):
        marks = [
            Mark(
                p.place,
                p.objectives[first],
                p.objectives[second],
                f"{p.evaluation}: {names[first]} {p.objectives[first]:.4f}, "
                f"{names[second]} {p.objectives[second]:.4f}",
                called.get(p.evaluation, ""),
                _objective_interval(p, first),
                _objective_interval(p, second),
            )
            for p in measured
        ]
        stairs = len(names) == 2 and any(p.place == "front" for p in measured)
        yield Figure(
            f"objectives-{names[first]}-{names[second]}",
            f"Objectives: {names[first]} and {names[second]}",
            "Eq. 2: 1 is the source that is good at it, 0 the other; more is better. Numbers are "
            "those of the table; bars are 95 % intervals over the questions that might have been "
            "asked, where that noise is known.",
            scatter_chart(marks, names[first], names[second], stairs=stairs),
        )


def _objective_interval(point: Point, number: int) -> tuple[float, float] | None:
    """The 95 % interval of an objective; None for a dominated point, and without known noise."""
    half = NORMAL_95 * point.deviations[number]
    if point.place == "dominated" or half == 0.0:
        return None
    return point.objectives[number] - half, point.objectives[number] + half


def _benchmark_figures(run: Run, measured: Sequence[Point]) -> Iterator[Figure]:
    called = labels(measured)
    for benchmark in run.spec.benchmarks:
        marks = [
            Mark(
                p.place,
                found["tokens"],
                found["accuracy"],
                f"{p.evaluation}: accuracy {found['accuracy']:.1%}, {found['tokens']:.1f} tokens",
                called.get(p.evaluation, ""),
            )
            for p in measured
            if {"tokens", "accuracy"} <= (found := p.metrics[benchmark.name]).keys()
        ]
        if marks:
            yield Figure(
                f"benchmark-{benchmark.name}",
                f"Accuracy and tokens on {benchmark.name}",
                "Upper left is better: more right answers for fewer tokens.",
                scatter_chart(marks, "generated tokens per question", "accuracy"),
            )


def front_table(run: Run, measured: Sequence[Point]) -> Table:
    """Every merge on the front with its objectives and raw figures, then the references."""
    wanted = shown_metrics(objective.metric for objective in run.spec.objectives)
    columns = [
        (benchmark.name, name)
        for benchmark in run.spec.benchmarks
        for name in wanted
        if any(name in p.metrics[benchmark.name] for p in measured)
    ]
    called = labels(measured)
    references = [p for p in measured if p.place == "reference"]
    return Table(
        (
            "",
            "evaluation",
            *(objective.name for objective in run.spec.objectives),
            *(f"{benchmark} {name}" for benchmark, name in columns),
            "seconds",
        ),
        tuple(
            (
                called[p.evaluation] if p.place == "front" else "",
                p.evaluation,
                *(f"{value:.4f}" for value in p.objectives),
                *(metric(name).text(p.metrics[bench].get(name)) for bench, name in columns),
                f"{p.seconds:.1f}",
            )
            for p in [*front_points(measured), *references]
        ),
        "Table III: merges on the front, then the references.",
        words=2,
    )


# ---- progress ----------------------------------------------------------------------------------


def _progress_section(run: Run) -> Section | None:
    state = run.run_state
    if not state.sessions.stays:
        return None
    found, hours = steps(state), hours_name(state)
    figures = []
    if found:
        note = f"Above ({', '.join(f'{v:g}' for v in run.spec.hypervolume_reference)})."
        figures += [
            Figure(
                "progress-evaluations",
                "Hypervolume and size of the front against evaluations",
                note,
                progress_chart(found, "completed", "completed evaluations"),
            ),
            Figure(
                "progress-hours",
                f"Hypervolume and size of the front against {hours}",
                f"{note} Time in which workers were connected and waited counts.",
                progress_chart(found, "hours", hours),
            ),
        ]
    spans, rate = timeline(state), load_rate(state, state.time)
    told = "nothing was leased" if rate is None else f"{rate:.1%}"
    figures.append(
        Figure(
            "timeline",
            "What the workers did",
            f"Load rate of the search: {told}. It is the share of the time that workers were "
            "connected after the initial design in which they had an evaluation; the number beside "
            f"a worker is its own. The run took {duration(spans.seconds)}.",
            gantt_chart(spans),
        )
    )
    return Section("Progress", figures=tuple(figures))
