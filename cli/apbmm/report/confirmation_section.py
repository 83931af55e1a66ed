"""The section on the confirmation: the front on questions that the search did not ask."""

from __future__ import annotations

from apbmm.report.document import Section, Table
from apbmm.report.points import front_numbers
from apbmm.results.confirmation import Confirmation, ConfirmedMerge
from apbmm.results.run_results import RunResults
from apbmm.results.words import figure_in_words
from apbmm_common.metrics import shown_metrics


def confirmation_section(results: RunResults, confirmation: Confirmation | None) -> Section | None:
    """Search and confirmed figures side by side; None where nothing is confirmed."""
    if confirmation is None or not confirmation.merges:
        return None
    asked = [merge for merge in confirmation.merges if merge.holds is not None]
    held = sum(merge.holds is True for merge in asked)
    names = [
        name
        for name in shown_metrics(objective.metric for objective in results.spec.objectives)
        if any(merge.confirmed.figure(name) for merge in confirmation.merges)
    ]
    numbers = front_numbers(results)
    return Section(
        "Confirmation",
        paragraphs=(
            f"{held} of {len(asked)} confirmed members of the front are on the front of the "
            "confirmed merges as well. The hypervolume of the confirmed front is "
            f"{confirmation.run.hypervolume:.4f}, that of the search {results.hypervolume:.4f}.",
        ),
        tables=(
            Table(
                (
                    "",
                    "evaluation",
                    "holds",
                    *(f"{name}, {when}" for name in names for when in ("search", "confirmed")),
                ),
                tuple(
                    (
                        str(numbers.get(merge.id, "")),
                        merge.id,
                        {True: "yes", False: "no", None: ""}[merge.holds],
                        *_cells(merge, names),
                    )
                    for merge in confirmation.merges
                ),
                "Means over the benchmarks, with their intervals or standard errors.",
                words=3,
            ),
        ),
    )


def _cells(merge: ConfirmedMerge, names: list[str]) -> tuple[str, ...]:
    return tuple(
        figure_in_words(name, each.figure(name))
        for name in names
        for each in (merge.search, merge.confirmed)
    )
