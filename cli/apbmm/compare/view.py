"""What `apbmm compare` prints."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from apbmm.compare.runs import Comparison, Row
from apbmm.results.words import duration, print_rehearsal
from apbmm.status.view import console
from apbmm_common import __version__

SCHEMA = 1
NUMBERS = "hyper-\nvolume|Spacing|contri-\nbution|front|load\nrate|time|done|failed"
"""The columns of numbers, separated by bars."""


def print_json(found: Comparison) -> None:
    """One JSON object on standard output; keys are only ever added within a schema."""
    json.dump(as_json(found), sys.stdout)
    sys.stdout.write("\n")


def as_json(found: Comparison) -> dict[str, Any]:
    """The comparison as a JSON object."""
    whole = asdict(found)
    return {"schema": SCHEMA, "version": __version__, "runs": whole.pop("rows"), **whole}


def print_table(found: Comparison) -> None:
    """Table II of the paper, then what a reader has to know about it."""
    screen = console()
    print_rehearsal(screen, rehearsal=found.rehearsal)
    screen.print(table(found))
    point = ", ".join(f"{value:g}" for value in found.reference_point)
    screen.print(
        f"hypervolume above ({point}) in {', '.join(found.objectives)}; contribution to the "
        f"{found.pooled_front} points of the pooled front; load rate and time of the search after "
        "its initial design",
        markup=False,
    )
    for note in found.notes:
        screen.print(f"note: {note}", style="yellow", markup=False)


def table(found: Comparison) -> Table:
    """The rows for people; a run that is not finished says so under its name."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("run", overflow="fold")
    shown.add_column("method", overflow="fold")
    for name in NUMBERS.split("|"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        cells = (Text(cell) for cell in _cells(row, found.pooled_front))
        shown.add_row(*cells, style="" if row.state == "finished" else "yellow")
    return shown


def _cells(row: Row, pooled: int) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        row.run if row.state == "finished" else f"{row.run}\n({row.state})",
        row.method,
        number(row.hypervolume, ".4f"),
        number(row.spacing, ".4f"),
        "-" if row.contribution is None else f"{row.contribution}/{pooled}",
        number(row.front, "d"),
        number(row.load_rate, ".1%"),
        "-" if row.seconds is None else duration(row.seconds),
        f"{row.done}/{row.budget}",
        str(row.failed),
    ]
