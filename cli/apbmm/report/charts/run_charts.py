"""The figures of one run, from the plain data of the other modules.

A chart is drawn wide enough for a phone: a page shows two beside one another where there is room.
Colours are never the only difference: the shape or the place of a mark differs too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

import altair as alt

from apbmm.report.charts.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    HEIGHT,
    ORANGE,
    PURPLE,
    SERIES,
    SKY,
    VERMILION,
    WIDTH,
    Chart,
    data,
    legend,
)
from apbmm.report.data.model import Calibration
from apbmm.report.data.points import Place
from apbmm.report.data.progress import Step, Timeline
from apbmm.results.figures import STANDARD_ERRORS

LETTER_WIDTH, LABEL_HEIGHT = 0.02, 0.055
"""Room of a letter, and of a line, as shares of the figure."""
LABEL_PLACES = (-7, 16)
"""Where a label may stand: so many pixels below its point."""
SIDES = {"left": 6, "right": -6}
"""How a label is aligned, and so many pixels right of its point."""
Rows = list[dict[str, Any]]


# ---- progress ----------------------------------------------------------------------------------


def progress_chart(found: Sequence[Step], against: Literal["completed", "hours"], x: str) -> Chart:
    """Hypervolume above the size of the front, after each evaluation; ``x`` is the axis' title."""
    volume = _steps(found, against, x, ("hypervolume", "hypervolume", BLUE))
    size = _steps(found, against, x, ("front", "on the front", VERMILION))
    return alt.vconcat(
        volume.properties(width=WIDTH, height=210), size.properties(width=WIDTH, height=90)
    )


def _steps(
    found: Sequence[Step], against: str, x: str, value: tuple[str, str, str]
) -> alt.LayerChart:
    field, name, colour = value
    rows = [
        {
            "evaluation": step.evaluation,
            "x": getattr(step, against),
            "y": getattr(step, field),
            "about": f"{step.evaluation}: {name} {getattr(step, field):.5g} after "
            f"{step.completed} evaluations, {step.hours:.3g} hours",
        }
        for step in found
    ]
    base = alt.Chart(data(rows)).encode(
        x=alt.X("x:Q", title=x, scale=alt.Scale(zero=True)),
        y=alt.Y("y:Q", title=name, scale=alt.Scale(zero=False)),
    )
    line = base.mark_line(interpolate="step-after", color=colour, strokeWidth=2)
    dots = base.mark_circle(color=colour, size=35, opacity=1).encode(description="about:N")
    return alt.LayerChart(layer=[line, dots])


SPANS = {
    "connected": ("connected, idle", "#d9d9d9"),
    "measure": ("discrepancies", PURPLE),
    "reference": ("reference", ORANGE),
    "initial": ("initial design", SKY),
    "search": ("search", BLUE),
    "lost": ("without a result", VERMILION),
}


def gantt_chart(found: Timeline) -> Chart:
    """What each worker did when; a worker's name has its load rate."""
    unit, size = time_unit(found.seconds)
    rows = [
        {
            "evaluation": span.evaluation,
            "worker": _with_load(span.worker, found.loads.get(span.worker)),
            "kind": SPANS[span.kind][0],
            "begin": span.begin / size,
            "end": span.end / size,
            "about": f"{span.evaluation} on {span.worker}, {SPANS[span.kind][0]}: "
            f"{(span.end - span.begin) / size:.4g} {unit}. {span.note}".strip(),
        }
        for span in found.spans
    ]
    looks = [look for kind, look in SPANS.items() if any(s.kind == kind for s in found.spans)]
    colours = alt.Scale(domain=[text for text, _ in looks], range=[colour for _, colour in looks])
    connected = SPANS["connected"][0]
    idle = alt.Chart(data(row for row in rows if row["kind"] == connected))
    work = alt.Chart(data(row for row in rows if row["kind"] != connected))
    layers = (
        idle.mark_bar(height={"band": 0.3}),
        work.mark_bar(height={"band": 0.75}, stroke="white", strokeWidth=0.7),
    )
    x = alt.X("begin:Q", title=f"{unit} since the first worker joined", scale=alt.Scale(nice=False))
    encoded = (
        layer.encode(
            x=x,
            x2="end:Q",
            y=alt.Y("worker:N", title=None),
            color=alt.Color("kind:N", title=None, scale=colours),
            description="about:N",
        )
        for layer in layers
    )
    return alt.LayerChart(layer=[*encoded]).properties(width=WIDTH, height={"step": 34})


def _with_load(worker: str, load: float | None) -> str:
    return worker if load is None else f"{worker} ({load:.0%})"


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit that suits a span of time, and its seconds."""
    if seconds < 300:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


# ---- points ------------------------------------------------------------------------------------

# Drawn in this order from the last, so that the front lies on top.
PLACES = {
    "front": ("on the front", BLUE, "circle"),
    "dominated": ("dominated", GREY, "cross"),
    "broken": ("breaks a constraint", GREY, "triangle-left"),
    "reference": ("reference", VERMILION, "diamond"),
    "pending": ("in progress, as predicted", GREEN, "square"),
    "confirmed": ("confirmed", PURPLE, "triangle-up"),
    "estimated": ("measured in part, as estimated", SKY, "triangle-down"),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a scatter chart, and its 95 % intervals; ``label`` is written beside it."""

    place: Place | Literal["pending", "confirmed", "estimated"]
    evaluation: str
    x: float
    y: float
    about: str
    label: str = ""
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


def scatter_chart(
    marks: Sequence[Mark], x_title: str, y_title: str, *, stairs: bool = False
) -> Chart:
    """Points by their place in the front; ``stairs`` bounds what the front dominates."""
    rows = [
        {
            "place": PLACES[mark.place][0],
            "evaluation": mark.evaluation,
            "x": mark.x,
            "y": mark.y,
            "about": mark.about,
            "label": mark.label,
            "x_interval": mark.x_interval,
            "y_interval": mark.y_interval,
        }
        for mark in sorted(marks, key=lambda mark: -list(PLACES).index(mark.place))
    ]
    used = [look for look in PLACES.values() if any(row["place"] == look[0] for row in rows)]
    x = alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False, nice=True))
    y = alt.Y("y:Q", title=y_title, scale=alt.Scale(zero=False, nice=True))
    colour, shape = legend("place", used)
    layers: list[alt.Chart] = []
    if stairs:
        front = data(row for row in rows if row["place"] == PLACES["front"][0])
        line = alt.Chart(front).mark_line(interpolate="step-before", color=BLUE, opacity=0.5)
        layers.append(line.encode(x=x, y=y, order="x:Q"))
    layers += [
        alt.Chart(data(row for row in rows if row["x_interval"]))
        .mark_rule(opacity=0.35)
        .encode(x="x_interval[0]:Q", x2="x_interval[1]:Q", y=y, color=colour),
        alt.Chart(data(row for row in rows if row["y_interval"]))
        .mark_rule(opacity=0.35)
        .encode(y="y_interval[0]:Q", y2="y_interval[1]:Q", x=x, color=colour),
        alt.Chart(data(rows))
        .mark_point(filled=True, size=55, opacity=0.9)
        .encode(x=x, y=y, color=colour, shape=shape, description="about:N"),
        *_label_layers(rows, x, y),
    ]
    return alt.LayerChart(layer=layers).properties(width=WIDTH, height=HEIGHT + 40)


def _label_layers(rows: Rows, x: alt.X, y: alt.Y) -> Iterator[alt.Chart]:
    """Labels beside their points, above or below."""
    placed = _placed(rows)
    for side, dx in SIDES.items():
        for dy in LABEL_PLACES:
            found = [row for row, where in placed if where == (side, dy)]
            look: dict[str, Any] = {"align": side, "dx": dx, "dy": dy}
            texts = alt.Chart(data(found)).mark_text(fontSize=12, color=BLACK, **look)
            yield texts.encode(x=x, y=y, text="label:N")


def _placed(rows: Rows) -> list[tuple[dict[str, Any], tuple[str, int]]]:
    """Rows with a side and a place where the label lies on no other one, and on no point.

    The side towards the middle is better, and references come first. A label without room is left
    out.
    """
    (left, wide), (_, high) = (_begin_and_length(rows, axis) for axis in "xy")
    points = [(row["x"] / wide, row["y"] / high) for row in rows]
    taken: list[tuple[float, float, float]] = []
    placed: list[tuple[dict[str, Any], tuple[str, int]]] = []
    named = [row for row in rows if row["label"]]
    for row in sorted(named, key=lambda row: row["place"] != PLACES["reference"][0]):
        sides = sorted(SIDES, reverse=row["x"] > left + wide / 2)
        for side, dy in product(sides, LABEL_PLACES):
            direction = 1 if side == "left" else -1
            near = row["x"] / wide + direction * LETTER_WIDTH / 2
            begin, end = sorted((near, near + direction * LETTER_WIDTH * len(row["label"])))
            line = row["y"] / high - (dy - 4) / (HEIGHT + 40)
            if (
                left / wide <= begin
                and end <= left / wide + 1
                and not any(begin < x < end and abs(line - y) < LABEL_HEIGHT / 2 for x, y in points)
                and not any(
                    begin < other_end and other_begin < end and abs(line - y) < LABEL_HEIGHT
                    for other_begin, other_end, y in taken
                )
            ):
                placed.append((row, (side, dy)))
                taken.append((begin, end, line))
                break
    return placed


def _begin_and_length(rows: Rows, axis: str) -> tuple[float, float]:
    """The part of an axis that points and their intervals take."""
    values = [v for row in rows for v in (row[axis], *(row[f"{axis}_interval"] or ()))]
    return min(values), max(values) - min(values) or 1.0


# ---- surrogate ---------------------------------------------------------------------------------


CALIBRATED = (("in its interval", BLUE, "circle"), ("outside", VERMILION, "diamond"))


def calibration_chart(found: Calibration, name: str) -> Chart:
    """Measured against predicted, with 95 % intervals; on the line both are equal."""
    rows: Rows = [
        {
            "x": each.predicted,
            "low": each.predicted - STANDARD_ERRORS * each.deviation,
            "high": each.predicted + STANDARD_ERRORS * each.deviation,
            "y": each.measured,
            "inside": CALIBRATED[0 if each.is_covered else 1][0],
            "about": f"{each.evaluation}: predicted {each.predicted:.3f}, "
            f"measured {each.measured:.3f}",
        }
        for each in found.predictions
    ]
    ends = [value for row in rows for value in (row["x"], row["y"])]
    line = data({"x": value, "y": value} for value in (min(ends), max(ends)))
    x = alt.X("x:Q", title=f"predicted {name}", scale=alt.Scale(zero=False))
    y = alt.Y("y:Q", title=f"measured {name}", scale=alt.Scale(zero=False))
    colour, shape = legend("inside", CALIBRATED)
    points = alt.Chart(data(rows))
    layers = [
        alt.Chart(line).mark_line(color=GREY, strokeDash=[4, 4]).encode(x=x, y=y),
        points.mark_rule(opacity=0.4).encode(x="low:Q", x2="high:Q", y=y, color=colour),
        points.mark_point(filled=True, size=50, opacity=0.9).encode(
            x=x,
            y=y,
            color=colour,
            shape=shape,
            description="about:N",
        ),
    ]
    return alt.LayerChart(layer=layers).properties(width=WIDTH, height=HEIGHT)


# ---- layers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a heat map."""

    column: str
    row: str
    value: float
    about: str


@dataclass(frozen=True, slots=True)
class Shade:
    """How a heat map colours its values: a title, a scheme, and the scale."""

    title: str
    scheme: str
    domain: tuple[float, float] | None = None
    logarithmic: bool = False


WEIGHTS = Shade("weight", "blueorange", (0.0, 1.0))
SCORES = Shade("score", "cividis", (0.0, 1.0))
LENGTHSCALES = Shade("lengthscale", "viridis", logarithmic=True)


def heat_map(cells: Sequence[Cell], shade: Shade, title: str, row_title: str = "") -> Chart:
    """Values as colours; columns and rows keep the order in which they first come."""
    scale: dict[str, Any] = {"scheme": shade.scheme}
    if shade.domain:
        scale["domain"] = list(shade.domain)
    if shade.logarithmic:
        # Dark is short: the objective changes fast along such a component.
        scale |= {"type": "log", "nice": False}
    columns = list(dict.fromkeys(cell.column for cell in cells))
    rows = list(dict.fromkeys(cell.row for cell in cells))
    chart: alt.Chart = (
        alt.Chart(data(asdict(cell) for cell in cells))
        .mark_rect(stroke="white", strokeWidth=0.5)
        .encode(
            x=alt.X("column:N", title=title, sort=columns, axis=_axis(columns)),
            y=alt.Y("row:N", title=row_title or None, sort=rows),
            color=alt.Color(
                "value:Q",
                title=shade.title,
                scale=alt.Scale(**scale),
                legend=alt.Legend(gradientLength=200, format="~g"),
            ),
            description="about:N",
        )
        .properties(width=WIDTH, height={"step": 18})
    )
    return chart


def _axis(names: Sequence[str]) -> alt.Axis:
    """An axis of names: upright where they are of several words, which take more room."""
    return alt.Axis(labelAngle=-90 if any(" " in name for name in names) else 0)


def stacked(charts: Sequence[Chart]) -> Chart:
    """Charts below one another, each with colours of its own."""
    chart: Chart = alt.VConcatChart(vconcat=list(charts)).resolve_scale(color="independent")
    return chart


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart with a group of bars for each name."""

    name: str
    series: str
    value: float
    about: str


def grouped_bars(
    bars: Sequence[Bar],
    x_title: str,
    y_title: str,
    *,
    beside: bool = True,
    domain: tuple[float, float] | None = None,
) -> Chart:
    """Bars up and down from 0, one for each series, beside one another or on one line.

    ``domain`` is that of the values, by default what they are in.
    """
    scale = alt.Undefined if domain is None else alt.Scale(domain=list(domain))
    names = list(dict.fromkeys(bar.name for bar in bars))
    series = list(dict.fromkeys(bar.series for bar in bars))
    chart: alt.Chart = (
        alt.Chart(data(asdict(bar) for bar in bars))
        .mark_bar()
        .encode(
            x=alt.X("name:N", title=x_title, sort=names, axis=_axis(names)),
            xOffset=alt.XOffset("series:N", sort=series) if beside else alt.Undefined,
            y=alt.Y("value:Q", title=y_title, scale=scale),
            color=alt.Color(
                "series:N", title=None, scale=alt.Scale(domain=series, range=list(SERIES))
            ),
            description="about:N",
        )
        .properties(width=WIDTH, height=HEIGHT - 60)
    )
    return chart
