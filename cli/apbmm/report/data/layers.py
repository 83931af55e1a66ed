"""What a run knows of the layers: the prior, what the surrogate learned, and how these agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from apbmm.report.data.model import effects
from apbmm.results.run_results import RunResults
from apbmm_common.run_file import Space
from apbmm_master.journal.events import Proposed
from apbmm_master.optimiser.client import search_arguments
from apbmm_master.search.arrays import Array
from apbmm_master.search.prior import Discrepancies, component_importance, descending_rank, rescale

if TYPE_CHECKING:
    from apbmm_master.search.surrogate.gaussian_process import Surrogate


@dataclass(frozen=True, slots=True)
class Component:
    """One component of a vector: a layer, a block or part of them, or a group of tensors outside.

    Of more than two sources there is one for each source but the anchor.

    Attributes:
        name: ``7``, ``4-7``, ``7 attention``, ``embeddings``; of more than two sources ``7 coder``.
        parameter, activation: its discrepancies after the rescaling of Eq. 6 and 9, the mean of a
            block's; None where none was measured.
        importance: the fused and smoothed score of Eq. 12, whether the run's method uses it or not.
        initial, fitted: its lengthscale for each objective, when the last fit began and as it
            ended. Without a surrogate ``initial`` is empty, and ``fitted`` is of the last
            fit to the objectives that a proposal came from, if any did.
        effects: see `model.effects`; empty without a surrogate.
    """

    name: str
    parameter: float | None
    activation: float | None
    importance: float | None
    initial: tuple[float, ...] = ()
    fitted: tuple[float, ...] = ()
    effects: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Agreement:
    """Spearman's rank correlations over the components, for one objective; None: not defined.

    ``lengthscales``: of the importance with the inverse of the fitted lengthscales. ``effects``: of
    the importance with the size of the effects.
    """

    objective: str
    lengthscales: float | None
    effects: float | None


def components(results: RunResults, surrogate: Surrogate | None) -> list[Component]:
    """The components of a linear merge; empty for a model-level method."""
    state = results.run_state
    if not state.has_space or not state.space.owners:
        return []
    space = state.space
    found = search_arguments(state).discrepancies
    scores = _scores(found, space) if found else [(None, None, None)] * space.dimensions
    names = component_names(space, results.spec.sources.names)
    if surrogate is None:
        fits = proposed_lengthscales(results)
        return [
            Component(name, *score, fitted=tuple(fit[d] for fit in fits))
            for d, (name, score) in enumerate(zip(names, scores, strict=True))
        ]
    changes = effects(results, surrogate)
    return [
        Component(
            name,
            *scores[d],
            tuple(surrogate.initial_lengthscales[:, d].tolist()),
            tuple(surrogate.lengthscales[:, d].tolist()),
            tuple(changes[d].tolist()),
        )
        for d, name in enumerate(names)
    ]


def proposed_lengthscales(results: RunResults) -> list[list[float]]:
    """For each objective the lengthscales (D,) of the last fit that a proposal came from.

    The journal has them with the proposal; empty where none came from a surrogate of the
    objectives themselves.
    """
    for record in reversed(results.records):
        if isinstance(record.event, Proposed) and not record.event.diagnostics.get("correlated"):
            rows = record.event.diagnostics.get("lengthscales") or []
            if rows and min(map(len, rows)) >= results.run_state.space.dimensions:
                return [list(map(float, row)) for row in rows[: len(results.objectives)]]
    return []


def component_names(space: Space, sources: Sequence[str]) -> list[str]:
    """What each component of a linear merge's vector weighs; ``sources`` with the anchor last."""
    if space.numbers == 1:
        return list(space.unit_names)
    return [f"{unit} {source}" for unit in space.unit_names for source in sources[: space.numbers]]


def _scores(
    found: Discrepancies, space: Space
) -> list[tuple[float | None, float | None, float | None]]:
    """Parameter and activation scores and importance of each component."""
    layers = [layer for layer, owner in enumerate(found.components) if owner is not None]
    owners = np.array([found.components[layer] for layer in layers])
    raw = np.array(found.parameter)[layers]
    parameter, activation = rescale(raw), rescale(np.array(found.activation)[layers])
    importance = component_importance(found).tolist()[:: space.numbers]
    count = space.dimensions // space.numbers - len(found.outside)
    inside = [
        (_mean(parameter, owners == d), _mean(activation, owners == d), importance[d])
        for d in range(count)
    ]
    outside = [
        (None if group is None else float(rescale([group], raw)[0]), None, importance[count + i])
        for i, group in enumerate(found.outside)
    ]
    return [score for score in (*inside, *outside) for _ in range(space.numbers)]


def _mean(values: Array, chosen: Array) -> float:
    return float(values[chosen].mean())


def agreements(found: Sequence[Component], objectives: Sequence[str]) -> list[Agreement]:
    """How the prior's order of the components agrees with what the surrogate learned."""
    if not found or not found[0].effects or any(column.importance is None for column in found):
        return []
    importance = [column.importance or 0.0 for column in found]
    return [
        Agreement(
            name,
            _rank_correlation(importance, [1.0 / column.fitted[k] for column in found]),
            _rank_correlation(importance, [abs(column.effects[k]) for column in found]),
        )
        for k, name in enumerate(objectives)
    ]


def _rank_correlation(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Spearman's rho; None where one side is constant or there are fewer than three."""
    if len(ours) < 3 or len(set(ours)) == 1 or len(set(theirs)) == 1:
        return None
    return float(np.corrcoef(descending_rank(ours), descending_rank(theirs))[0, 1])
