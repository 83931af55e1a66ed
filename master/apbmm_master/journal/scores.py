"""Objectives (Eq. 2), front, hypervolume and load rate of a run, from its run state alone."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import RunSpec
from apbmm_master.journal.evaluations import REFERENCES, Attempt, Evaluation
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.run_state import RunState
from apbmm_master.search.arrays import Array
from apbmm_master.search.pareto import hypervolume
from apbmm_master.search.reference_scaling import (
    Measurement,
    ScaledObjective,
    check_references,
    objective_variance,
    objective_vector,
)


@dataclass(frozen=True)
class ScoredEvaluation:
    """A completed evaluation with its objective vector, hypervolume and front size after it."""

    evaluation: Evaluation
    objectives: tuple[float, ...]
    hypervolume: float
    front: int


@dataclass(frozen=True)
class Scores:
    """Front and hypervolume after the last of ``completed`` evaluations.

    ``front``: objective vectors by evaluation id, in the order of completion. All empty until both
    references are measured.
    """

    completed: int = 0
    front: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    hypervolume: float = 0.0


def objectives_of(spec: RunSpec) -> tuple[ScaledObjective, ...]:
    """The run's objectives, with the benchmarks each one averages over."""
    every = tuple(benchmark.name for benchmark in spec.benchmarks)
    return tuple(
        ScaledObjective(o.name, o.metric, o.benchmarks or every, o.expert, o.vanilla)
        for o in spec.objectives
    )


def measurement_of(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Raw metrics of a completed evaluation for Eq. 2: benchmark -> metrics, and "questions"."""
    if not isinstance(evaluation.body, Evaluated):
        return {}
    return {
        name: {**result.metrics, "questions": result.questions}
        for name, result in evaluation.body.benchmarks.items()
    }


def missing_metrics(spec: RunSpec, body: Evaluated) -> str:
    """Says which metrics of the run's objectives a result lacks; empty when it has them all."""
    missing = {
        f"benchmark {benchmark} has no {objective.metric}"
        for objective in objectives_of(spec)
        for benchmark in objective.benchmarks
        if objective.metric not in body.benchmarks[benchmark].metrics
    }
    return "; ".join(sorted(missing))


def references_of(run_state: RunState) -> dict[str, Measurement]:
    """Raw metrics of the references that are measured."""
    return {e.id: measurement_of(e) for e in measured_references(run_state)}


def measured_references(run_state: RunState) -> list[Evaluation]:
    """The reference evaluations that are complete."""
    found = (run_state.evaluations.get(name) for name in REFERENCES)
    return [e for e in found if e is not None and e.state is EvaluationState.DONE]


def check_scaling(run_state: RunState) -> None:
    """Raise the named error of `objective.check_references` if Eq. 2 cannot be applied."""
    if run_state.spec is not None and run_state.references_done:
        check_references(objectives_of(run_state.spec), references_of(run_state))


def score(run_state: RunState, evaluation: Evaluation) -> tuple[float, ...]:
    """Objective vector of one completed evaluation; both references must be measured."""
    return _by_eq_2(objective_vector, run_state, evaluation)


def known_noise(run_state: RunState, evaluation: Evaluation) -> tuple[float, ...]:
    """Variance of `score` that the search is told; see `objective.objective_variance`."""
    return _by_eq_2(objective_variance, run_state, evaluation)


def _by_eq_2(
    rule: Callable[[Sequence[ScaledObjective], Measurement, Mapping[str, Measurement]], Array],
    run_state: RunState,
    evaluation: Evaluation,
) -> tuple[float, ...]:
    """One number for each objective of the run, from what was measured of model and references."""
    assert run_state.spec is not None
    found = rule(
        objectives_of(run_state.spec), measurement_of(evaluation), references_of(run_state)
    )
    return tuple(float(value) for value in found)


class ScoreHistory:
    """The scores of one run after each completed evaluation.

    Each completed evaluation is scored once, however often `update` is called.
    """

    def __init__(self) -> None:
        self._begin(None)

    def _begin(self, run_state: RunState | None) -> None:
        self._run_state = run_state
        self._objectives, self._volumes, self._sizes = array("d"), array("d"), array("l")
        self._front: dict[str, tuple[float, ...]] = {}
        self._points: Array = np.empty(0)

    def update(self, run_state: RunState) -> Scores:
        """Score the evaluations completed since the last call; returns the scores after them.

        A run state other than the last one (read back from the journal) is scored from its start.
        """
        if run_state is not self._run_state:
            self._begin(run_state)
        if run_state.spec is None or not run_state.references_done:
            return Scores()
        for name in run_state.completed[len(self._volumes) :]:
            self._enter(run_state, run_state.evaluations[name])
        return Scores(len(self._volumes), dict(self._front), self._volume)

    def history(self, begin: int = 0) -> Iterator[ScoredEvaluation]:
        """What the last `update` scored, in the order of completion, without the first ones."""
        if self._run_state is None:
            return
        names = self._run_state.completed
        for number in range(begin, len(self._volumes)):
            yield ScoredEvaluation(
                self._run_state.evaluations[names[number]],
                self._objectives_of(number),
                self._volumes[number],
                self._sizes[number],
            )

    @property
    def _volume(self) -> float:
        return self._volumes[-1] if self._volumes else 0.0

    def _objectives_of(self, number: int) -> tuple[float, ...]:
        width = len(self._objectives) // len(self._volumes)
        return tuple(self._objectives[number * width : (number + 1) * width])

    def _enter(self, run_state: RunState, evaluation: Evaluation) -> None:
        """Score a completion; it changes the front unless something there dominates it."""
        assert run_state.spec is not None
        objectives, volume = score(run_state, evaluation), self._volume
        new = np.array(objectives, dtype=np.float64)
        points = self._points.reshape(-1, len(new))
        if not (_no_worse(points, new) & (points != new).any(axis=1)).any():
            kept = ~(_no_worse(new, points) & (points != new).any(axis=1))
            for name in [n for n, keep in zip(self._front, kept, strict=True) if not keep]:
                del self._front[name]
            self._front[evaluation.id] = objectives
            self._points = np.concatenate([points[kept], new[None]])
            volume = hypervolume(self._points, run_state.spec.hypervolume_reference)
        self._objectives.extend(objectives)
        self._volumes.append(volume)
        self._sizes.append(len(self._front))


def _no_worse(points: Array, others: Array) -> npt.NDArray[np.bool_]:
    """Whether each row of one is at least the other's in every objective; either may be one row."""
    return np.asarray((points >= others).all(axis=1))


def scores_of(run_state: RunState) -> Scores:
    """Where a run stands, scored from its start; see `ScoreHistory` to follow one."""
    return ScoreHistory().update(run_state)


def search_window(run_state: RunState, now: float) -> tuple[float, float] | None:
    """When the search began and ended (Unix seconds): first search dispatch to last completion.

    ``now`` is its end while work is in progress. Before the search has begun, the window starts at
    the first lease. None when nothing was leased.
    """
    first = search = math.inf
    last, running = -math.inf, False
    for evaluation in run_state.evaluations.values():
        for attempt in evaluation.attempts:
            first = min(first, attempt.leased_at)
            if evaluation.purpose == "search":
                search = min(search, attempt.leased_at)
            last = max(last, _end(attempt, last))
            running |= attempt.active
    if first == math.inf:
        return None
    start = first if search == math.inf else search
    return start, now if running or last == -math.inf else last


def load_rate(run_state: RunState, now: float) -> float | None:
    """Busy worker seconds over worker seconds within `search_window`, tail included.

    None when nothing was leased. A worker counts, busy or not, for the time that it was there.
    """
    window = search_window(run_state, now)
    if window is None:
        return None
    start, end = window
    stays: dict[str, list[tuple[float, float]]] = {}
    for stay in run_state.sessions.stays:
        left = end if stay.left is None else stay.left
        stays.setdefault(stay.worker, []).append((max(stay.joined, start), min(left, end)))
    busy = sum(
        overlap(attempt.leased_at, _end(attempt, end), *stay)
        for evaluation in run_state.evaluations.values()
        for attempt in evaluation.attempts
        for stay in stays.get(attempt.worker, ())
    )
    there = sum(max(0.0, left - joined) for spans in stays.values() for joined, left in spans)
    return busy / there if there > 0 else None


def _end(attempt: Attempt, default: float) -> float:
    return default if attempt.ended_at is None else attempt.ended_at


def overlap(begin: float, end: float, start: float, stop: float) -> float:
    """Length that two spans share."""
    return max(0.0, min(end, stop) - max(begin, start))
