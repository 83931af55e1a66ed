"""Results in words for people."""

from __future__ import annotations

from apbmm.results.figures import Figure
from apbmm_common.metrics import metric

REHEARSAL = "REHEARSAL: the measurements are invented"
"""Stands on everything that is made of a rehearsal."""


def figure_in_words(name: str, figure: Figure | None) -> str:
    """A metric's figure: a share with its interval, anything else with its standard error."""
    if figure is None:
        return "-"
    described = metric(name)
    text = described.text(figure.value)
    if described.most == 1.0 and figure.low is not None and figure.high is not None:
        return f"{text} ({described.text(figure.low)} to {described.text(figure.high)})"
    if figure.standard_error is not None:
        return f"{text} ± {described.text(figure.standard_error)}"
    return text
