"""Every measured merge of a run as a point: objectives, raw figures, place in the front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.evaluations import Evaluation
from apbmm_master.journal.run_state import RunState
from apbmm_master.journal.scores import known_noise, measured_references, score, scores_of

Place = Literal["front", "dominated", "reference"]


@dataclass(frozen=True, slots=True)
class Point:
    """One completed evaluation.

    ``objectives`` are those of Eq. 2, ``deviations`` the known standard deviations of each (0
    where none is known). ``metrics`` are the raw figures: benchmark -> metric -> value.
    """

    evaluation: str
    place: Place
    initial: bool
    vector: tuple[float, ...]
    objectives: tuple[float, ...]
    deviations: tuple[float, ...]
    metrics: Mapping[str, Mapping[str, float]]
    seconds: float


def points(run_state: RunState) -> list[Point]:
    """The references, then the budget's evaluations in the order of their completion.

    Empty until both references are measured, because Eq. 2 needs them.
    """
    if not run_state.references_done:
        return []
    best = scores_of(run_state).front
    budget = [run_state.evaluations[name] for name in run_state.completed]
    return [
        *(_point(run_state, e, "reference") for e in measured_references(run_state)),
        *(_point(run_state, e, "front" if e.id in best else "dominated") for e in budget),
    ]


def _point(run_state: RunState, evaluation: Evaluation, place: Place) -> Point:
    body = evaluation.body
    assert isinstance(body, Evaluated)
    return Point(
        evaluation=evaluation.id,
        place=place,
        initial=evaluation.purpose == "initial",
        vector=evaluation.vector,
        objectives=score(run_state, evaluation),
        deviations=tuple(math.sqrt(v) for v in known_noise(run_state, evaluation)),
        metrics={name: result.metrics for name, result in body.benchmarks.items()},
        seconds=evaluation.seconds,
    )


def front_points(found: Sequence[Point]) -> list[Point]:
    """Those on the front, best in the first objective first."""
    best = [point for point in found if point.place == "front"]
    return sorted(best, key=lambda point: point.objectives, reverse=True)
