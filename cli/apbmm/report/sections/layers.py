"""The section on layers: weights along the front, the prior, and which layers mattered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from apbmm.report.charts.drawing import ReportFigure
from apbmm.report.charts.run_charts import (
    LENGTHSCALES,
    SCORES,
    WEIGHTS,
    Bar,
    Cell,
    grouped_bars,
    heat_map,
    stacked,
)
from apbmm.report.data.layers import Agreement, Component, agreements, components
from apbmm.report.data.model import search_method
from apbmm.report.data.points import short_id
from apbmm.report.document import ReportSection, ReportTable
from apbmm.results.run_results import RunResults
from apbmm.results.words import blocks_in_words, in_list

if TYPE_CHECKING:
    from apbmm_master.search.surrogate.gaussian_process import Surrogate

AXIS = "layer"


def layers_section(results: RunResults, surrogate: Surrogate | None) -> ReportSection | None:
    """Everything on layers that the run has; None where it has nothing, or weighs no layers."""
    found = components(results, surrogate)
    figures = (*_weights(results), *_prior(results, found), *_effects(results, found))
    tables = (*_parameters(results), *_agreement(results, found))
    blocks = results.run_state.found_blocks
    paragraphs = (f"{blocks_in_words(blocks)}.",) if blocks else ()
    if not (figures or tables or paragraphs):
        return None
    return ReportSection("Layers", paragraphs, figures, tables)


def weight_cells(results: RunResults, source: str) -> list[Cell]:
    """A source's weight in each layer or part, and each group outside, of every front member."""
    return [
        Cell(name, short_id(each.id), weight, f"{each.id}, {name}: {weight:.3f}")
        for each in reversed(results.front)
        if each.source_weights
        for name, weight in [
            *each.named_weights(source).items(),
            *each.outside_source_weights[source].items(),
        ]
    ]


def _weights(results: RunResults) -> Iterator[ReportFigure]:
    names = results.spec.sources.names
    maps = [
        heat_map(cells, replace(WEIGHTS, title=f"weight of {name}"), AXIS, "merge on the front")
        for name in results.weighed
        if (cells := weight_cells(results, name))
    ]
    if not maps:
        return
    scale = f"1 is {names[0]} alone in that layer, 0 {names[1]} alone"
    if len(maps) > 1:
        scale = f"1 is the source of that map alone in that layer; the maps are of {in_list(names)}"
    yield ReportFigure(
        "front-weights",
        "Layer weights along the front",
        f"Each row is a merge of the front (e17 is e0017), in its order; {scale}.",
        maps[0] if len(maps) == 1 else stacked(maps),
    )


def prior_cells(
    found: Sequence[Component], objectives: Sequence[str]
) -> tuple[list[Cell], list[Cell]]:
    """Cells of the scores, and of the lengthscales, as in the paper's Fig. 5."""
    scores, lengthscales = [], []
    for column in found:
        for row, value in (
            ("parameters", column.parameter),
            ("activations", column.activation),
            ("importance", column.importance),
        ):
            if value is not None:
                about = f"{row}, {column.name}: {value:.3f}"
                scores.append(Cell(column.name, row, value, about))
        one = len(set(column.initial)) == 1
        initial = column.initial[:1] if one else column.initial
        for values, when in ((initial, "initial"), (column.fitted, "fitted")):
            for objective, value in zip(objectives, values, strict=False):
                row = when if one and when == "initial" else f"{when}, {objective}"
                about = f"{row}, {column.name}: {value:.3g}"
                lengthscales.append(Cell(column.name, row, value, about))
    order = list(dict.fromkeys(cell.row for cell in lengthscales))
    return scores, sorted(lengthscales, key=lambda cell: order.index(cell.row))


def _prior(results: RunResults, found: Sequence[Component]) -> Iterator[ReportFigure]:
    scores, lengthscales = prior_cells(found, results.objectives)
    parts = [
        heat_map(cells, shade, AXIS)
        for cells, shade in ((scores, SCORES), (lengthscales, LENGTHSCALES))
        if cells
    ]
    if not parts:
        return
    of_proposal = (
        " The fitted ones are of the last model of the objectives that a proposal came from."
        if found[0].fitted and not found[0].initial
        else ""
    )
    method = search_method(results)
    used = method is None or method.uses_importance
    yield ReportFigure(
        "prior",
        "Prior importance and lengthscales",
        "How much the sources differ in parameters and in activations, rescaled to 0 to 1 (Eq. 6 "
        "and 9), and the importance that follows (Eq. 12)"
        f"{'' if used else ', which this method does not use'}. A short lengthscale (dark) means "
        f"that the surrogate lets the objective change fast along that layer.{of_proposal}",
        stacked(parts),
    )


def _effects(results: RunResults, found: Sequence[Component]) -> Iterator[ReportFigure]:
    if not found or not found[0].effects:
        return
    bars = [
        Bar(column.name, objective, value, f"{column.name}: {objective} {value:+.3f}")
        for column in found
        for objective, value in zip(results.objectives, column.effects, strict=True)
    ]
    *others, anchor = results.spec.sources.names
    if results.spec.merge.combine != "simplex":
        others, anchor = [*others, anchor], "the base"
    yield ReportFigure(
        "layer-effects",
        "Which layers mattered",
        f"What the surrogate expects of taking a layer from {' or '.join(others)} instead of "
        f"{anchor}, all other weights as they are, on average over the evaluated merges. These are "
        "estimates from few evaluations, not measurements.",
        grouped_bars(bars, AXIS, "change of the objective"),
    )


def _agreement(results: RunResults, found: Sequence[Component]) -> Iterator[ReportTable]:
    rows = agreements(found, results.objectives)
    if rows:
        yield ReportTable(
            ("objective", "with inverse lengthscales", "with effects"),
            tuple((row.objective, *_correlations(row)) for row in rows),
            "Spearman's rank correlation of the prior importance with what the surrogate learned, "
            f"over {len(found)} weights: 1 is the same order, 0 none.",
        )


def _correlations(row: Agreement) -> tuple[str, str]:
    lengthscales, effects = (
        "-" if value is None else f"{value:+.2f}" for value in (row.lengthscales, row.effects)
    )
    return lengthscales, effects


def _parameters(results: RunResults) -> Iterator[ReportTable]:
    """What a model-level method varies, for each front member."""
    members = [each for each in reversed(results.front) if each.parameters]
    if members:
        names = list(members[0].parameters)
        yield ReportTable(
            ("evaluation", *names),
            tuple((e.id, *(f"{e.parameters[name]:.4g}" for name in names)) for e in members),
            "Parameters of the merges on the front.",
            words=1,
        )
