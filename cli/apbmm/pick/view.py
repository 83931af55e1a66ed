"""What `apbmm pick` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from apbmm.pick.choice import Choice, limit_in_words
from apbmm.pick.remarks import against, doubts, ratios
from apbmm.results.confirmation import Confirmation, ConfirmedMerge
from apbmm.results.json_form import evaluation_as_json, run_as_json
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm.results.words import figure_in_words, print_rehearsal
from apbmm_master.journal.run_start.confirmation import can_confirm

SCHEMA = 1


def pick_as_json(
    results: RunResults, choice: Choice, confirmation: Confirmation | None, *, ranks_all: bool
) -> dict[str, Any]:
    """The choice as a JSON object; keys are only ever added within a schema."""
    chosen = choice.evaluation
    confirmed = _confirmed(chosen, confirmation)
    shown = choice.ranked if ranks_all else ()
    return {
        "schema": SCHEMA,
        **run_as_json(results),
        "limits": [
            {"name": limit.name, "kind": limit.kind, "value": limit.value}
            for limit in choice.preference.limits
        ],
        "reason": choice.reason,
        "pick": evaluation_as_json(results, chosen) if chosen else None,
        "nearest": [evaluation_as_json(results, each) for each in choice.nearest],
        "references": {
            name: evaluation_as_json(results, each) for name, each in results.references.items()
        },
        "ratios": {name: ratios(results, chosen, name) for name in results.references}
        if chosen
        else {},
        "references_within": list(choice.references_within),
        "confirmed": {
            **evaluation_as_json(confirmation.run, confirmed.confirmed),
            "holds": confirmed.holds,
        }
        if confirmation and confirmed
        else None,
        "doubts": list(doubts(results, choice, confirmed)),
        "ranked": [evaluation_as_json(results, each) for each in shown],
    }


def print_pick(
    screen: Console,
    results: RunResults,
    choice: Choice,
    confirmation: Confirmation | None,
    *,
    ranks_all: bool,
) -> None:
    """The choice for people."""
    print_rehearsal(screen, rehearsal=results.rehearsal)
    for line in _head(results, choice):
        screen.print(line, markup=False)
    chosen = choice.evaluation
    confirmed = _confirmed(chosen, confirmation)
    shown = [chosen] if chosen else list(choice.nearest)
    screen.print(side_by_side(results, [*shown, *results.references.values()]))
    if confirmation and confirmed:
        _print_confirmed(screen, confirmation.run, confirmed)
    if chosen:
        for line in _weights(results, chosen):
            screen.print(line, markup=False)
    if ranks_all and choice.ranked:
        screen.print(ranking(results, choice.ranked))
    for line in doubts(results, choice, confirmed):
        screen.print(f"note: {line}", style="yellow", markup=False)
    if chosen and not confirmed and (confirmation or can_confirm(results.spec)):
        screen.print(_unconfirmed(results, chosen, confirmation), markup=False)


def _confirmed(
    chosen: EvaluationResult | None, confirmation: Confirmation | None
) -> ConfirmedMerge | None:
    return confirmation.of(chosen.id) if confirmation and chosen else None


def _unconfirmed(
    results: RunResults, chosen: EvaluationResult, confirmation: Confirmation | None
) -> str:
    """How to have the chosen merge confirmed, where it is not."""
    if confirmation is None:
        return f"apbmm confirm {results.label} measures it on questions that the search did not ask"
    confirmed = [merge.id for merge in confirmation.merges if merge.search.purpose != "reference"]
    return (
        f"{chosen.id} is not among the confirmed merges ({', '.join(confirmed) or 'none yet'}): "
        f"apbmm confirm {results.label} --eval {chosen.id} adds it"
    )


def _print_confirmed(screen: Console, run: RunResults, merge: ConfirmedMerge) -> None:
    screen.print("confirmed, on questions that the search did not ask:")
    for name in run.references:
        screen.print(f"  {against(run, merge.confirmed, name)}", markup=False)
    screen.print(side_by_side(run, [merge.confirmed, *run.references.values()]))


def _weights(results: RunResults, chosen: EvaluationResult) -> Iterator[str]:
    """How the merge is made."""
    if not chosen.source_weights:
        yield ", ".join(f"{name} {value:g}" for name, value in chosen.parameters.items())
    for name in results.weighed if chosen.source_weights else ():
        parts = chosen.part_weights[name] or {"": chosen.source_weights[name]}
        for part, row in parts.items():
            weights = " ".join(f"{weight:.2f}" for weight in row)
            where = f"{part} of " if part else ""
            yield f"{name}'s weight in {where}layers 0 to {len(row) - 1}: {weights}"


def _head(results: RunResults, choice: Choice) -> Iterator[str]:
    chosen = choice.evaluation
    yield results.run
    if choice.preference.limits:
        yield f"limits: {', '.join(map(limit_in_words, choice.preference.limits))}"
    if chosen is None:
        for name in choice.references_within:
            yield f"{name} itself is within the limits"
        yield f"nothing fits: {choice.reason}; the nearest:"
        return
    yield f"{chosen.id}: {choice.reason}"
    for name in results.references:
        yield f"  {against(results, chosen, name)}"


def side_by_side(results: RunResults, evaluations: Sequence[EvaluationResult]) -> Table:
    """A column for each evaluation; rows of objectives and of every shown metric."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 2, 0, 0))
    table.add_column("")
    for each in evaluations:
        table.add_column(each.id, justify="right")
    for index, name in enumerate(results.objectives):
        cells = [each.objectives[index] if each.objectives else None for each in evaluations]
        table.add_row(name, *("-" if value is None else f"{value:.3f}" for value in cells))
    metrics = results.shown_metrics
    benchmarks = [benchmark.name for benchmark in results.spec.benchmarks]
    groups = [(benchmark, [benchmark]) for benchmark in benchmarks]
    if len(benchmarks) > 1:
        groups.insert(0, ("all", benchmarks))
    for label, chosen in groups:
        for name in metrics:
            figures = [each.figure(name, chosen) for each in evaluations]
            if any(figure is not None for figure in figures):
                table.add_row(
                    f"{label} {name}", *(figure_in_words(name, figure) for figure in figures)
                )
    return table


def ranking(results: RunResults, ranked: Sequence[EvaluationResult]) -> Table:
    """A row for each merge within the limits, the best first."""
    metrics = results.shown_metrics
    shown = [name for name in metrics if any(each.figure(name) for each in ranked)]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    over_all = (results.over_all(name) for name in shown)
    for heading in ("rank", "id", "front", *results.objectives, *over_all):
        table.add_column(heading, justify="left" if heading in ("id", "front") else "right")
    for rank, each in enumerate(ranked, 1):
        table.add_row(
            str(rank),
            each.id,
            "yes" if each.on_front else "",
            *(f"{value:.3f}" for value in each.objectives or ()),
            *(figure_in_words(name, each.figure(name)) for name in shown),
        )
    return table
