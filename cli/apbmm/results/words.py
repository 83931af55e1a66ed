"""Results in words for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from apbmm.results.figures import Figure
from apbmm_common.metrics import metric

if TYPE_CHECKING:
    from rich.console import Console

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


def checks_in_words(checks: Mapping[str, int]) -> str:
    """What `EstimateChecks` says of merges that were completed to check their estimates."""
    one = checks["merges"] == 1
    return (
        f"{checks['merges']} merge{' was' if one else 's were'} drawn at random and completed to "
        f"check {'its' if one else 'their'} estimates: "
        f"{checks['within']} of {checks['means']} means lay within their 95 % intervals"
    )


def blocks_in_words(blocks: Sequence[str]) -> str:
    """The blocks of layers that a run has found; there is at least one."""
    count = f"{len(blocks)} block{'s' if len(blocks) > 1 else ''} of layers"
    return f"{count}, found from how much the sources differ: {'; '.join(blocks)}"


def in_list(names: Sequence[str]) -> str:
    """Names as a sentence has them: "a, b and c"; there is at least one."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def weighed_in_words(weights: Mapping[str, float]) -> str:
    """Benchmarks of a mean: "chain, trail", with their weights where these differ."""
    equal = len({*weights.values()}) == 1
    return ", ".join(
        name if equal else f"{name} (weight {weight:g})" for name, weight in weights.items()
    )


def asked_in_words(questions: int | None, repeats: int) -> str:
    """What is asked: "30 questions", or "30 questions x 8" where each has several answers.

    Without a number, all questions are asked.
    """
    return f"{'all' if questions is None else questions} questions{times(repeats)}"


def times(repeats: int) -> str:
    """How often something is asked, as in "30 x 8"; nothing for once."""
    return f" x {repeats}" if repeats > 1 else ""


def cost_unit(device: str, unit: str) -> str:
    """``GPU-seconds`` of a card, ``worker-seconds`` of a worker without one; ``unit`` is a time."""
    return f"{'GPU' if device == 'card' else device}-{unit}"


def print_rehearsal(screen: Console, *, rehearsal: bool) -> None:
    """The line that stands above everything about a rehearsal; nothing for another run."""
    from rich.text import Text

    if rehearsal:
        screen.print(Text(REHEARSAL, style="bold magenta"))


def duration(seconds: float) -> str:
    """Seconds for people, in the unit that suits."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def moment(when: float) -> str:
    """A time in Unix seconds, for people of this time zone."""
    return datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M:%S")
