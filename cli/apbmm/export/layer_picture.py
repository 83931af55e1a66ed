"""A small picture of the layers' weights, for a model card: SVG that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _TOP, _LEFT, _BOTTOM = 640, 180, 34, 46, 28
_THINKING, _INSTRUCT, _INK = "#0072b2", "#e6e6e6", "#333333"  # told apart by the colour-blind


def layer_picture(weights: Sequence[float], title: str) -> str:
    """Bars of the thinking model's weight in each layer, from 0 at the bottom to 1 at the top."""
    return "\n".join(_lines(weights, title)) + "\n"


def _lines(weights: Sequence[float], title: str) -> Iterator[str]:
    inner, height = _WIDTH - _LEFT - 8, _HEIGHT - _TOP - _BOTTOM
    step = inner / len(weights)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
        f' height="{_HEIGHT}" font-family="sans-serif" font-size="11" fill="{_INK}" role="img">'
    )
    yield f"<title>{escape(title)}</title>"
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>'
    yield f'<text x="{_LEFT}" y="18" font-size="13">{escape(title)}</text>'
    yield f'<rect x="{_LEFT}" y="{_TOP}" width="{inner}" height="{height}" fill="{_INSTRUCT}"/>'
    every = max(1, -(-len(weights) // 18))
    for layer, weight in enumerate(weights):
        left, bar = _LEFT + layer * step, height * weight
        yield (
            f'<rect x="{left + 0.1 * step:.2f}" y="{_TOP + height - bar:.2f}"'
            f' width="{0.8 * step:.2f}" height="{bar:.2f}" fill="{_THINKING}">'
            f"<title>layer {layer}: {weight:.3f}</title></rect>"
        )
        if layer % every == 0:
            yield (
                f'<text x="{left + step / 2:.2f}" y="{_HEIGHT - 12}"'
                f' text-anchor="middle">{layer}</text>'
            )
    for value in (0.0, 0.5, 1.0):
        y = _TOP + height * (1 - value)
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.2f}" text-anchor="end">{value:g}</text>'
    yield "</svg>"
