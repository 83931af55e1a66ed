"""What `apbmm compare` prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from apbmm.compare.repetitions import Group, Mean, PairedTest
from apbmm.compare.rows import Row
from apbmm.compare.runs import Comparison
from apbmm.results.words import duration, print_rehearsal
from apbmm.status.view import console
from apbmm_common import __version__

SCHEMA = 1
NUMBERS = "seed|HV|Spacing|pooled\nfront|front|load\nrate|time|done|failed"
"""The columns of numbers, separated by bars; with a name beside them they fit into 80 columns."""


def as_json(found: Comparison) -> dict[str, Any]:
    """The comparison as a JSON object; keys are only ever added within a schema."""
    whole = asdict(found)
    return {"schema": SCHEMA, "version": __version__, "runs": whole.pop("rows"), **whole}


def print_table(found: Comparison) -> None:
    """Table II of the paper, then what a reader has to know about it."""
    screen = console()
    print_rehearsal(screen, rehearsal=found.rehearsal)
    screen.print(table(found))
    point = ", ".join(f"{value:g}" for value in found.reference_point)
    screen.print(
        f"HV: hypervolume above ({point}) in {', '.join(found.objectives)}; pooled front: "
        f"contribution to its {found.pooled_front} points; load rate and time of the search after "
        "its initial design",
        markup=False,
    )
    if found.repetitions.groups:
        screen.print(groups_table(found))
        screen.print(f"means over finished runs of one method, {GROUPS_CAPTION}", markup=False)
    for test in found.repetitions.tests:
        screen.print(in_words(test), markup=False)
    for note in found.notes:
        screen.print(f"note: {note}", style="yellow", markup=False)


def table(found: Comparison) -> Table:
    """The rows for people; a run that is not finished says so under its name."""
    shown = Table(box=SIMPLE_HEAD, padding=0)
    shown.add_column("run\nmethod", overflow="fold")
    for name in NUMBERS.split("|"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        run, method, *numbers = row_cells(row, found.pooled_front)
        cells = map(Text, (f"{run}\n{method}", *numbers))
        shown.add_row(*cells, style="" if row.state == "finished" else "yellow")
    return shown


def row_cells(row: Row, pooled: int) -> list[str]:
    """One run's line: its name, its method and the `NUMBERS`."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        row.run if row.state == "finished" else f"{row.run}\n({row.state})",
        row.method,
        str(row.seed),
        number(row.hypervolume, ".4f"),
        number(row.spacing, ".4f"),
        "-" if row.contribution is None else f"{row.contribution}/{pooled}",
        number(row.front, "d"),
        number(row.load_rate, ".1%"),
        "-" if row.seconds is None else duration(row.seconds),
        str(row.done) if row.budget is None else f"{row.done}/{row.budget}",
        str(row.failed),
    ]


GROUPS_CAPTION = "with 95 % intervals by Student's t"
GROUP_HEADINGS = ("method", "runs", "hypervolume", "Spacing", "front", "load rate", "time")


def groups_table(found: Comparison) -> Table:
    """The repetitions for people."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in GROUP_HEADINGS:
        shown.add_column(name, justify="left" if name == "method" else "right", overflow="fold")
    for group in found.repetitions.groups:
        shown.add_row(*(Text(cell) for cell in group_cells(group)))
    return shown


def group_cells(group: Group) -> list[str]:
    """A group's line, as `GROUP_HEADINGS` has it."""
    return [
        group.name,
        str(len(group.seeds)),
        _mean(group.hypervolume, "{:.4f}".format),
        _mean(group.spacing, "{:.4f}".format),
        _mean(group.front, "{:.1f}".format),
        _mean(group.load_rate, "{:.1%}".format),
        _mean(group.seconds, duration),
    ]


def _mean(mean: Mean | None, form: Callable[[float], str]) -> str:
    if mean is None:
        return "-"
    if mean.low is None or mean.high is None:
        return form(mean.value)
    return f"{form(mean.value)} ({form(mean.low)} to {form(mean.high)})"


def in_words(test: PairedTest) -> str:
    """A paired test in a sentence."""
    seeds = f"{len(test.seeds)} seed{'' if len(test.seeds) == 1 else 's'}"
    judged = "too few for a test" if test.p is None else f"Wilcoxon signed-rank p = {test.p:.3g}"
    return (
        f"{test.second} minus {test.first}: hypervolume "
        f"{_mean(test.difference, '{:+.4f}'.format)} over {seeds} that both ran, {judged}"
    )
