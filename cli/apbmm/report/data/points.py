"""Measured merges as points: their place, and their objectives with intervals."""

from __future__ import annotations

import math
import re
from typing import Literal

from apbmm.results.figures import Figure, mean_figure
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm_master.journal.assessment.scores import (
    estimated_objectives,
    objectives_of,
    references_of,
)
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.search.reference_scaling import scaling

Place = Literal["front", "dominated", "broken", "reference"]


def measured(results: RunResults) -> list[EvaluationResult]:
    """The references, then every merge that is known, as far as they have objectives."""
    found = [*results.references.values(), *results.merges]
    return [each for each in found if each.objectives is not None]


def place(evaluation: EvaluationResult) -> Place:
    """Where an evaluation with objectives stands."""
    if evaluation.purpose == "reference":
        return "reference"
    if evaluation.breaks:
        return "broken"
    return "front" if evaluation.on_front else "dominated"


def front_numbers(results: RunResults) -> dict[str, int]:
    """The places of the members of the front along it: 1 is best in the first objective."""
    return {each.id: number for number, each in enumerate(reversed(results.front), 1)}


def short_id(name: str) -> str:
    """What an evaluation is called in figures: its id without zeros, e17 for e0017."""
    return re.sub(r"^([a-z]+)0+(?=\d)", r"\1", name)


def objective_figures(results: RunResults, evaluation: EvaluationResult) -> tuple[Figure, ...]:
    """Each objective of a measured evaluation (Eq. 2), with the interval of its raw figures.

    What scores 0 and 1 is taken as exact.
    """
    figures = []
    references = references_of(results.run_state)
    for number, objective in enumerate(objectives_of(results.spec)):
        shares, scaled = objective.shares, []
        for benchmark, (zero, span) in scaling(objective, references).items():
            raw = evaluation.benchmarks[benchmark].figure(objective.metric)
            scaled.append(raw and _scaled(raw, zero, span))
        mean = mean_figure(scaled, list(shares.values()))
        assert mean is not None
        assert evaluation.objectives is not None
        # Summed in the same way as the journal's own, to the last digit.
        figures.append(Figure(evaluation.objectives[number], mean.low, mean.high))
    return tuple(figures)


def estimates(results: RunResults) -> dict[str, tuple[Figure, ...]]:
    """Each objective of the merges that pause or are stopped, estimated from a part of the answers.

    The standard error is that of the estimate.
    """
    state = results.run_state
    if results.trouble or not state.references_done:
        return {}
    found = {}
    for evaluation in state.of_state(EvaluationState.PAUSED, EvaluationState.STOPPED):
        if evaluation.estimate is not None:
            means, variances = estimated_objectives(state, evaluation.estimate)
            found[evaluation.id] = tuple(
                Figure(mean, standard_error=math.sqrt(variance))
                for mean, variance in zip(means, variances, strict=True)
            )
    return found


def _scaled(raw: Figure, zero: float, span: float) -> Figure:
    limits = [(v - zero) / span for v in (raw.low, raw.high) if v is not None]
    low, high = (min(limits), max(limits)) if len(limits) == 2 else (None, None)
    return Figure((raw.value - zero) / span, low, high)


def interval(figure: Figure) -> tuple[float, float] | None:
    """The limits of a figure; None where they are not known."""
    if figure.low is None or figure.high is None:
        return None
    return figure.low, figure.high
