"""What `apbmm pick` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from apbmm.pick.choice import Choice, limit_in_words
from apbmm.pick.remarks import against, doubts, ratios
from apbmm.results.json_form import evaluation_as_json, run_as_json
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm.results.words import figure_in_words, print_rehearsal
from apbmm_common.metrics import shown_metrics

SCHEMA = 1


def pick_as_json(results: RunResults, choice: Choice, *, ranks_all: bool) -> dict[str, Any]:
    """The choice as a JSON object; keys are only ever added within a schema."""
    chosen = choice.evaluation
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
        "doubts": list(doubts(results, choice)),
        "ranked": [evaluation_as_json(results, each) for each in shown],
    }


def print_pick(screen: Console, results: RunResults, choice: Choice, *, ranks_all: bool) -> None:
    """The choice for people."""
    print_rehearsal(screen, rehearsal=results.rehearsal)
    for line in _head(results, choice):
        screen.print(line, markup=False)
    chosen = choice.evaluation
    shown = [chosen] if chosen else list(choice.nearest)
    screen.print(side_by_side(results, [*shown, *results.references.values()]))
    if chosen and chosen.layer_weights:
        weights = " ".join(f"{weight:.2f}" for weight in chosen.layer_weights)
        screen.print(f"thinking's weight in layers 0 to {len(chosen.layer_weights) - 1}: {weights}")
    if ranks_all and choice.ranked:
        screen.print(ranking(results, choice.ranked))
    for line in doubts(results, choice):
        screen.print(f"note: {line}", style="yellow", markup=False)


def _head(results: RunResults, choice: Choice) -> Iterator[str]:
    chosen = choice.evaluation
    yield results.run
    if choice.preference.limits:
        yield f"limits: {', '.join(map(limit_in_words, choice.preference.limits))}"
    if chosen is None:
        yield f"nothing fits: {choice.reason}; the nearest:"
        for name in choice.references_within:
            yield f"{name} itself is within them"
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
        table.add_row(name, *("-" if value is None else f"{value:+.3f}" for value in cells))
    metrics = shown_metrics(objective.metric for objective in results.spec.objectives)
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
    metrics = shown_metrics(objective.metric for objective in results.spec.objectives)
    shown = [name for name in metrics if any(each.figure(name) for each in ranked)]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("rank", "id", "front", *results.objectives, *shown):
        table.add_column(heading, justify="left" if heading in ("id", "front") else "right")
    for rank, each in enumerate(ranked, 1):
        table.add_row(
            str(rank),
            each.id,
            "yes" if each.on_front else "",
            *(f"{value:+.3f}" for value in each.objectives or ()),
            *(figure_in_words(name, each.figure(name)) for name in shown),
        )
    return table
