"""The figures of several runs, from the plain data of `comparison` and of `apbmm compare`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle

import altair as alt

from apbmm.compare.repetitions import Group
from apbmm.report.charts.drawing import BLUE, HEIGHT, SERIES, WIDTH, Chart, data, legend
from apbmm.report.data.comparison import PooledPoint, Trajectory

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")


def _by_series(names: Iterable[str]) -> tuple[alt.Color, alt.Shape]:
    """A colour and a shape for each series."""
    looks = zip(dict.fromkeys(names), cycle(SERIES), cycle(SHAPES), strict=False)
    return legend("series", list(looks))


def trajectories_chart(found: Sequence[Trajectory]) -> Chart:
    """The hypervolume of several runs after each evaluation."""
    rows = [
        {
            "series": each.series,
            "run": each.run,
            "x": number,
            "y": value,
            "about": f"{each.run}, {each.series}: {value:.4f} after {number} evaluations",
        }
        for each in found
        for number, value in enumerate(each.hypervolumes, 1)
    ]
    colour, shape = _by_series(each.series for each in found)
    base = alt.Chart(data(rows)).encode(
        x=alt.X("x:Q", title="completed evaluations", scale=alt.Scale(zero=True)),
        y=alt.Y("y:Q", title="hypervolume", scale=alt.Scale(zero=False)),
        color=colour,
        detail="run:N",
    )
    line = base.mark_line(interpolate="step-after", strokeWidth=1.5)
    dots = base.mark_point(filled=True, size=30, opacity=0.9)
    layers = [line, dots.encode(shape=shape, description="about:N")]
    return alt.LayerChart(layer=layers).properties(width=WIDTH, height=HEIGHT)


def fronts_chart(
    points: Sequence[PooledPoint], names: Sequence[str], pair: tuple[int, int]
) -> Chart:
    """The fronts of several runs; points on the pooled front are filled."""
    rows = [
        {
            "series": point.series,
            "x": point.objectives[pair[0]],
            "y": point.objectives[pair[1]],
            "about": f"{point.evaluation} of {point.run}, {point.series}: "
            + ", ".join(f"{n} {v:.4f}" for n, v in zip(names, point.objectives, strict=True)),
            "pooled": point.pooled,
        }
        for point in points
    ]
    colour, shape = _by_series(point.series for point in points)
    layers = [
        alt.Chart(data(row for row in rows if row["pooled"] is pooled))
        .mark_point(filled=pooled, size=60, opacity=0.9)
        .encode(
            x=alt.X("x:Q", title=names[pair[0]], scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", title=names[pair[1]], scale=alt.Scale(zero=False)),
            color=colour,
            shape=shape,
            description="about:N",
        )
        for pooled in (False, True)
    ]
    return alt.LayerChart(layer=layers).properties(width=WIDTH, height=HEIGHT + 40)


def group_chart(groups: Sequence[Group]) -> Chart:
    """The mean hypervolume of each group with its interval."""
    rows = [
        {
            "name": group.name,
            "value": group.hypervolume.value,
            "low": group.hypervolume.low,
            "high": group.hypervolume.high,
            "about": f"{group.name}: {group.hypervolume.value:.4f} over {len(group.seeds)} runs",
        }
        for group in groups
        if group.hypervolume is not None
    ]
    y = alt.Y("name:N", title=None, sort=[group.name for group in groups])
    scale = alt.Scale(zero=False)
    spans = alt.Chart(data(row for row in rows if row["low"] is not None))
    layers = [
        spans.mark_rule(color=BLUE, strokeWidth=2).encode(
            x=alt.X("low:Q", title="hypervolume", scale=scale), x2="high:Q", y=y
        ),
        alt.Chart(data(rows))
        .mark_point(filled=True, size=80, color=BLUE, opacity=1)
        .encode(x=alt.X("value:Q", scale=scale), y=y, description="about:N"),
    ]
    return alt.LayerChart(layer=layers).properties(width=WIDTH, height={"step": 30})
