"""Draws figures: Vega-Lite charts, as SVG for a page, or as SVG, PNG and PDF files.

vl-convert draws them within this process, without a browser and without a network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

import altair as alt
import vl_convert

from apbmm.results.words import REHEARSAL

Chart = alt.Chart | alt.LayerChart | alt.HConcatChart | alt.VConcatChart
Format = Literal["svg", "png", "pdf"]

SVG = "http://www.w3.org/2000/svg"
NO_MARKS = ("axis", "legend", "title")
PNG_SCALE = 2.0

# Okabe and Ito's colours, which people with every kind of colour vision can tell apart.
BLACK, GREY = "#000000", "#8a8a8a"
BLUE, SKY, GREEN = "#0072b2", "#56b4e9", "#009e73"
ORANGE, VERMILION, PURPLE = "#e69f00", "#d55e00", "#cc79a7"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)

CONFIG: dict[str, Any] = {
    "background": "white",
    "font": "Helvetica, Arial, sans-serif",
    "padding": 8,
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 13,
        "titleFontSize": 14,
        "titleFontWeight": "normal",
        "gridColor": "#e6e6e6",
        "domainColor": GREY,
        "tickColor": GREY,
        "labelLimit": 240,
        "tickCount": 6,
        "labelFlush": False,
        "labelOverlap": "greedy",
    },
    "legend": {
        "labelFontSize": 13,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "orient": "bottom",
        "labelLimit": 300,
        "columns": 3,
        "symbolStrokeWidth": 2,
        "symbolOpacity": 1,
        "columnPadding": 24,
    },
    "rule": {"aria": False},
    "line": {"aria": False},
    "text": {"aria": False},
    "title": {"fontSize": 15, "anchor": "start", "subtitleFontSize": 13},
}

WIDTH, HEIGHT = 430, 280
"""Of a chart without its axes. Texts of 13 are then readable on a phone."""


def data(rows: Iterable[dict[str, Any]]) -> alt.InlineData:
    """Rows as the data of a chart, in JSON: Altair copies lists again and again."""
    return alt.InlineData(values=json.dumps(list(rows)), format=alt.JsonDataFormat(type="json"))


def legend(field: str, looks: Sequence[tuple[str, str, str]]) -> tuple[alt.Color, alt.Shape]:
    """The colour and the shape of each value of ``field``: names, colours and shapes."""
    names, colours, shapes = (list(column) for column in zip(*looks, strict=True))
    return (
        alt.Color(f"{field}:N", title=None, scale=alt.Scale(domain=names, range=colours)),
        alt.Shape(f"{field}:N", title=None, scale=alt.Scale(domain=names, range=shapes)),
    )


@dataclass(frozen=True)
class ReportFigure:
    """A chart with a file name, a title, and what a reader has to know to read it."""

    name: str
    title: str
    caption: str
    chart: Chart


def draw(figure: ReportFigure, form: Format, *, rehearsal: bool) -> bytes:
    """The figure as a file with its title; one of a rehearsal says so."""
    subtitle = {"subtitle": REHEARSAL, "subtitleColor": VERMILION} if rehearsal else {}
    drawn = specification(figure.chart, {"text": figure.title, **subtitle})
    match form:
        case "svg":
            return _annotated(vl_convert.vegalite_to_svg(drawn), figure)
        case "png":
            return bytes(vl_convert.vegalite_to_png(drawn, scale=PNG_SCALE))
        case "pdf":
            return bytes(vl_convert.vegalite_to_pdf(drawn))


def inline(figure: ReportFigure, *, rehearsal: bool) -> str:
    """The figure as an SVG element to be put into a page, which shows title and caption itself."""
    title = {"text": REHEARSAL, "color": VERMILION} if rehearsal else None
    svg = vl_convert.vegalite_to_svg(specification(figure.chart, title))
    return _annotated(svg, figure).decode()


def specification(chart: Chart, title: dict[str, Any] | None = None) -> dict[str, Any]:
    """The chart in Vega-Lite, with the looks of all figures."""
    # Checking a chart against the schema takes longer than drawing it; the tests do it.
    found: dict[str, Any] = chart.to_dict(validate=False)
    found["config"] = CONFIG
    if title is not None:
        found["title"] = title
    return found


def _annotated(svg: str, figure: ReportFigure) -> bytes:
    """Turns descriptions into tooltips, and makes ids unique within a page of several figures."""
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(svg)  # noqa: S314 - drawn here
    prefix = f"{re.sub(r'[^A-Za-z0-9]', '-', figure.name)}-"
    for element in root.iter():
        label, role = element.get("aria-label"), element.get("aria-roledescription", "")
        if label and role not in NO_MARKS and "container" not in role:
            title = ElementTree.SubElement(element, f"{{{SVG}}}title")
            title.text = label
            del element.attrib["aria-label"]
        for key, value in element.items():
            element.set(key, _with_prefix(key, value, prefix))
    root.set("role", "img")
    root.set("aria-label", figure.title)
    return bytes(ElementTree.tostring(root, encoding="utf-8"))


def _with_prefix(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return prefix + value
    if key.endswith("href") and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    return value.replace("url(#", f"url(#{prefix}")
