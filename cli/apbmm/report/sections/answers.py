"""The section on single questions: how neighbours on the front differ."""

from __future__ import annotations

from collections.abc import Sequence

from apbmm.report.charts.drawing import ReportFigure
from apbmm.report.charts.run_charts import Bar, grouped_bars
from apbmm.report.data.answers import LEVEL, Neighbours
from apbmm.report.data.points import short_id
from apbmm.report.document import ReportSection


def answers_section(found: Sequence[Neighbours]) -> ReportSection | None:
    """What neighbours answered differently; None without answers of single questions."""
    if not found:
        return None
    bars = [
        Bar(
            short_id(pair.first),
            series,
            value,
            f"{pair.first} and {pair.second}: {pair.first_better} and {pair.second_better} of "
            f"{pair.questions} questions answered better than by the other, p = {pair.p:.2g}, "
            f"{pair.more_tokens:+.1f} tokens a question",
        )
        for pair in found
        for series, value in (
            ("better than the next", pair.first_better / pair.questions),
            ("worse than the next", -pair.second_better / pair.questions),
        )
    ]
    figure = ReportFigure(
        "neighbours",
        "Questions that neighbours answered differently",
        "For each merge of the front, beside the next one: the share of questions that it answered "
        f"better (up) and worse (down). {alike(found)}.",
        grouped_bars(bars, "merge on the front", "share of questions", beside=False),
    )
    return ReportSection("Answers", figures=(figure,))


def alike(found: Sequence[Neighbours]) -> str:
    """How many neighbours differ by no more than chance."""
    within = sum(pair.p >= LEVEL for pair in found)
    return (
        f"{within} of {len(found)} neighbouring pairs on the front differ in their right answers "
        f"by no more than chance explains (sign test over the questions, p at least {LEVEL:g})"
    )
