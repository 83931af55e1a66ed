"""The section on the confirmation: the front on questions that the search did not ask."""

from __future__ import annotations

from apbmm.report.document import ReportSection, ReportTable
from apbmm.results.confirmation import (
    SAME_QUESTIONS,
    Confirmation,
    ConfirmedMerge,
    changes_in_words,
)
from apbmm.results.run_results import RunResults
from apbmm.results.words import figure_in_words


def confirmation_section(
    results: RunResults, confirmation: Confirmation | None
) -> ReportSection | None:
    """Search and confirmed figures side by side; None where nothing is confirmed."""
    if confirmation is None or not confirmation.merges:
        return None
    names = [
        name
        for name in results.shown_metrics
        if any(merge.confirmed.figure(name) for merge in confirmation.merges)
    ]
    return ReportSection(
        "Confirmation",
        paragraphs=(
            f"{confirmation.holding} of {len(confirmation.front)} confirmed members of the front "
            "are on the front of the confirmed merges as well. The hypervolume of the confirmed "
            f"front is {confirmation.run.hypervolume:.4f}, that of the same merges in the search "
            f"{confirmation.hypervolume_in(results):.4f}.",
            *(f"{line[0].upper()}{line[1:]}." for line in changes_in_words(results, confirmation)),
            *([f"{SAME_QUESTIONS.capitalize()}."] if confirmation.asks_the_same_questions else []),
        ),
        tables=(
            ReportTable(
                (
                    "evaluation",
                    "holds",
                    *(
                        f"{name}{results.where(results.benchmarks_of(name))}, {when}"
                        for name in names
                        for when in ("search", "confirmed")
                    ),
                ),
                tuple(
                    (
                        merge.id,
                        merge.holds_in_words,
                        *_cells(merge, names, results, confirmation.run),
                    )
                    for merge in confirmation.merges
                ),
                "Means over the benchmarks, with their intervals or standard errors.",
                words=2,
            ),
        ),
    )


def _cells(
    merge: ConfirmedMerge, names: list[str], search: RunResults, again: RunResults
) -> tuple[str, ...]:
    return tuple(
        figure_in_words(name, each.figure(name, run.benchmarks_of(name)))
        for name in names
        for each, run in ((merge.search, search), (merge.confirmed, again))
    )
