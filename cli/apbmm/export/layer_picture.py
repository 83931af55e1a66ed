"""A small picture of the layers' weights, for a model card: SVG that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from apbmm_common.run_file import LEAST_SOURCES

_WIDTH, _HEIGHT, _TOP, _LEFT, _BOTTOM = 640, 180, 34, 46, 28
_INK, _ANCHOR = "#333333", "#e6e6e6"
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
"""Of Okabe and Ito, told apart by the colour-blind: of the sources but the anchor."""


def layer_picture(weights: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Bars of the sources' weights in each layer, on one another from 0 at the bottom to 1.

    ``weights`` has those of each source by its name, for each layer or part of one by its name;
    what the others leave is the last one's.
    """
    return "\n".join(_lines(weights, title)) + "\n"


def _lines(weights: Mapping[str, Mapping[str, float]], title: str) -> Iterator[str]:
    *others, _ = weights
    columns = list(weights[others[0]])
    rows = [[weights[name][column] for name in others] for column in columns]
    inner, height = _WIDTH - _LEFT - 8, _HEIGHT - _TOP - _BOTTOM
    step = inner / len(rows)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
        f' height="{_HEIGHT}" font-family="sans-serif" font-size="11" fill="{_INK}" role="img">'
    )
    yield f"<title>{escape(title)}</title>"
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>'
    yield f'<text x="{_LEFT}" y="18" font-size="13">{escape(title)}</text>'
    if len(weights) > LEAST_SOURCES:
        yield from _legend(list(weights))
    yield f'<rect x="{_LEFT}" y="{_TOP}" width="{inner}" height="{height}" fill="{_ANCHOR}"/>'
    every = max(1, -(-len(rows) // 18))
    for place, (column, row) in enumerate(zip(columns, rows, strict=True)):
        left, top = _LEFT + place * step, float(_TOP + height)
        for name, weight, colour in zip(others, row, _COLOURS, strict=False):
            top -= height * weight
            whose = "" if len(others) == 1 else f"{escape(name)} "
            yield (
                f'<rect x="{left + 0.1 * step:.2f}" y="{top:.2f}"'
                f' width="{0.8 * step:.2f}" height="{height * weight:.2f}" fill="{colour}">'
                f"<title>layer {column}: {whose}{weight:.3f}</title></rect>"
            )
        if place % every == 0:
            yield (
                f'<text x="{left + step / 2:.2f}" y="{_HEIGHT - 12}"'
                f' text-anchor="middle">{escape(column)}</text>'
            )
    for value in (0.0, 0.5, 1.0):
        y = _TOP + height * (1 - value)
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.2f}" text-anchor="end">{value:g}</text>'
    yield "</svg>"


def _legend(names: Sequence[str]) -> Iterator[str]:
    """A line of the sources in their colours, at the right of the title's line."""
    marks = zip(names, (*_COLOURS[: len(names) - 1], _ANCHOR), strict=True)
    parts = "".join(
        f'<tspan fill="{colour}" stroke="{_INK}" stroke-width="0.2">&#9632;</tspan>'
        f"<tspan> {escape(name)}  </tspan>"
        for name, colour in marks
    )
    yield f'<text x="{_WIDTH - 8}" y="30" text-anchor="end" xml:space="preserve">{parts}</text>'
