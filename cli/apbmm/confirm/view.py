"""What `apbmm confirm` prints when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from apbmm.results.confirmation import Confirmation, ConfirmedMerge, conclusion
from apbmm.results.json_form import evaluation_as_json, run_as_json
from apbmm.results.run_results import RunResults
from apbmm.results.words import figure_in_words, print_rehearsal
from apbmm.status.view import console
from apbmm_common.metrics import metric

SCHEMA = 1


def print_confirmation(search: RunResults, found: Confirmation, goes_on: str) -> None:
    """The table, what it says of the front as a whole, and the command that goes on."""
    screen = console()
    print_rehearsal(screen, rehearsal=search.rehearsal)
    screen.print(table(search, found))
    for line in conclusion(search, found, goes_on):
        screen.print(line, markup=False, soft_wrap=True)  # a command is copied from it


def table(search: RunResults, found: Confirmation) -> Table:
    """A row for each reference and merge: every metric of the objectives in both runs."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("merge", no_wrap=True)
    names = _metrics(search)
    for name in names:
        where = search.where(search.benchmarks_of(name))
        shown.add_column(f"{name}{where}\nsearch", justify="right")
        shown.add_column("\nconfirmed", justify="right")
    shown.add_column("still on\nthe front")
    for merge in found.merges:
        cells = [cell for name in names for cell in _cells(name, merge, search, found)]
        style = "yellow" if merge.holds is False else ""
        shown.add_row(merge.id, *cells, merge.holds_in_words, style=style)
    return shown


def as_json(search: RunResults, found: Confirmation) -> dict[str, Any]:
    """The confirmation as a JSON object; keys are only ever added within a schema."""
    return {
        "schema": SCHEMA,
        **run_as_json(search),
        "hypervolume": {"search": search.hypervolume, "confirmed": found.run.hypervolume},
        "trouble": found.run.trouble,
        "merges": [
            {
                "id": merge.id,
                "holds": merge.holds,
                "search": evaluation_as_json(search, merge.search),
                "confirmed": evaluation_as_json(found.run, merge.confirmed),
            }
            for merge in found.merges
        ],
    }


def _metrics(search: RunResults) -> Sequence[str]:
    """The metrics of the objectives, each once."""
    return tuple(dict.fromkeys(objective.metric for objective in search.spec.objectives))


def _cells(
    name: str, merge: ConfirmedMerge, search: RunResults, found: Confirmation
) -> tuple[str, str]:
    before = merge.search.figure(name, search.benchmarks_of(name))
    after = merge.confirmed.figure(name, found.run.benchmarks_of(name))
    return metric(name).text(before.value if before else None), figure_in_words(name, after)
