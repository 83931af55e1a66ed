"""Lays a report out as one HTML file that needs nothing else: no script, no network."""

from __future__ import annotations

from functools import partial
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from apbmm.report.charts.drawing import inline
from apbmm.report.document import Document
from apbmm.results.words import REHEARSAL
from apbmm_common import __version__

TEMPLATE = "page.html.jinja"


def page(document: Document) -> str:
    """The whole page. Text is escaped; figures are SVG within it."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        document=document,
        draw=partial(inline, rehearsal=document.rehearsal),
        rehearsal=REHEARSAL,
        version=__version__,
    )
