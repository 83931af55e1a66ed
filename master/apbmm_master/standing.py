"""Where a run stands: objectives (Eq. 2), front, hypervolume, load rate; from the ledger alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from apbmm_common.messages import Evaluated
from apbmm_common.runfile import RunSpec
from apbmm_master.arrays import Array
from apbmm_master.ledger import REFERENCES, Attempt, Evaluation, Ledger
from apbmm_master.lifecycle import EvaluationState
from apbmm_master.objective import (
    Measurement,
    Objective,
    check_references,
    objective_variance,
    objective_vector,
)
from apbmm_master.pareto import hypervolume


@dataclass(frozen=True)
class Scored:
    """A completed evaluation with its objective vector, in order of completion."""

    evaluation: Evaluation
    objectives: tuple[float, ...]


@dataclass(frozen=True)
class Standing:
    """Front and hypervolume after the last completion, and their history before it.

    ``front`` holds evaluation ids; ``trajectory`` the hypervolume and front size after each of
    ``scored``. All empty until both references are measured.
    """

    scored: tuple[Scored, ...] = ()
    front: tuple[str, ...] = ()
    hypervolume: float = 0.0
    trajectory: tuple[tuple[float, int], ...] = field(default=(), repr=False)

    @property
    def by_id(self) -> dict[str, Scored]:
        """Scored evaluations by their id."""
        return {scored.evaluation.id: scored for scored in self.scored}


def objectives_of(spec: RunSpec) -> tuple[Objective, ...]:
    """The run's objectives, with the benchmarks each one averages over."""
    every = tuple(benchmark.name for benchmark in spec.benchmarks)
    return tuple(
        Objective(o.name, o.metric, o.benchmarks or every, o.expert, o.vanilla)
        for o in spec.objectives
    )


def metrics_of(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Raw metrics of a completed evaluation: benchmark -> accuracy, tokens, counts."""
    if not isinstance(evaluation.body, Evaluated):
        return {}
    return {
        name: {
            "accuracy": result.accuracy,
            "tokens": result.tokens,
            "questions": result.questions,
            "truncated": result.truncated,
            "malformed": result.malformed,
        }
        for name, result in evaluation.body.benchmarks.items()
    }


def references_of(ledger: Ledger) -> dict[str, Mapping[str, Mapping[str, float]]]:
    """Raw metrics of the references that are measured."""
    return {
        name: metrics_of(ledger.evaluations[name])
        for name in REFERENCES
        if name in ledger.evaluations and ledger.evaluations[name].state is EvaluationState.DONE
    }


def check_scaling(ledger: Ledger) -> None:
    """Raise the named error of `objective.check_references` if Eq. 2 cannot be applied."""
    if ledger.spec is not None and ledger.references_done:
        check_references(objectives_of(ledger.spec), references_of(ledger))


def score(ledger: Ledger, evaluation: Evaluation) -> tuple[float, ...]:
    """Objective vector of one completed evaluation; both references must be measured."""
    return _by_eq_2(objective_vector, ledger, evaluation)


def known_noise(ledger: Ledger, evaluation: Evaluation) -> tuple[float, ...]:
    """Variance of `score` that the search is told; see `objective.objective_variance`."""
    return _by_eq_2(objective_variance, ledger, evaluation)


def _by_eq_2(
    rule: Callable[[Sequence[Objective], Measurement, Mapping[str, Measurement]], Array],
    ledger: Ledger,
    evaluation: Evaluation,
) -> tuple[float, ...]:
    """One number for each objective of the run, from what was measured of model and references."""
    assert ledger.spec is not None
    found = rule(objectives_of(ledger.spec), metrics_of(evaluation), references_of(ledger))
    return tuple(float(value) for value in found)


class Tracker:
    """Follows one run's standing from completion to completion.

    Each completion is scored and entered into the front once, however often it is asked for.
    """

    def __init__(self) -> None:
        self._ledger: Ledger | None = None
        self._scored: list[Scored] = []
        self._trajectory: list[tuple[float, int]] = []
        self._front: list[int] = []
        self._points: Array = np.empty(0)

    def stand(self, ledger: Ledger) -> Standing:
        """Score everything that is complete and follow front and hypervolume through it.

        A ledger other than the last one (read back from the journal) is scored from its start.
        """
        if ledger is not self._ledger:
            self._ledger, self._scored, self._trajectory, self._front = ledger, [], [], []
            self._points = np.empty(0)
        if ledger.spec is None or not ledger.references_done:
            return Standing()
        for name in ledger.completed[len(self._scored) :]:
            self._enter(ledger, ledger.evaluations[name])
        return Standing(
            tuple(self._scored),
            tuple(self._scored[i].evaluation.id for i in self._front),
            self._trajectory[-1][0] if self._trajectory else 0.0,
            tuple(self._trajectory),
        )

    def _enter(self, ledger: Ledger, evaluation: Evaluation) -> None:
        """Score a completion; it changes the front unless something there dominates it."""
        assert ledger.spec is not None
        scored = Scored(evaluation, score(ledger, evaluation))
        self._scored.append(scored)
        volume = self._trajectory[-1][0] if self._trajectory else 0.0
        new = np.array(scored.objectives, dtype=np.float64)
        points = self._points.reshape(-1, len(new))
        if not (_no_worse(points, new) & (points != new).any(axis=1)).any():
            kept = ~(_no_worse(new, points) & (points != new).any(axis=1))
            self._front = [i for i, keep in zip(self._front, kept, strict=True) if keep]
            self._front.append(len(self._scored) - 1)
            self._points = np.concatenate([points[kept], new[None]])
            volume = hypervolume(self._points, ledger.spec.hypervolume_reference)
        self._trajectory.append((volume, len(self._front)))


def _no_worse(points: Array, others: Array) -> npt.NDArray[np.bool_]:
    """Whether each row of one is at least the other's in every objective; either may be one row."""
    return np.asarray((points >= others).all(axis=1))


def stand(ledger: Ledger) -> Standing:
    """Where a run stands, scored from its start; see `Tracker` to follow one."""
    return Tracker().stand(ledger)


def search_window(ledger: Ledger, now: float) -> tuple[float, float] | None:
    """When the search began and ended (Unix seconds): first search dispatch to last completion.

    ``now`` is its end while work is in progress. Before the search has begun, the window starts at
    the first lease. None when nothing was leased.
    """
    attempts = [(e, a) for e in ledger.evaluations.values() for a in e.attempts]
    search = [a for e, a in attempts if e.purpose == "search"]
    starts = [a.leased_at for a in search] or [a.leased_at for _, a in attempts]
    if not starts:
        return None
    running = any(a.active for _, a in attempts)
    ends = [a.ended_at for _, a in attempts if a.ended_at is not None]
    return min(starts), now if running or not ends else max(ends)


def load_rate(ledger: Ledger, now: float) -> float | None:
    """Busy worker seconds over worker seconds within `search_window`, tail included.

    None when nothing was leased. A worker counts, busy or not, for the time that it was there.
    """
    window = search_window(ledger, now)
    if window is None:
        return None
    start, end = window
    stays: dict[str, list[tuple[float, float]]] = {}
    for stay in ledger.attendance.stays:
        left = end if stay.left is None else stay.left
        stays.setdefault(stay.worker, []).append((max(stay.joined, start), min(left, end)))
    busy = sum(
        overlap(attempt.leased_at, _end(attempt, end), *stay)
        for evaluation in ledger.evaluations.values()
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
