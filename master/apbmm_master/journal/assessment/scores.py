"""Objectives (Eq. 2), front, hypervolume and load rate of a run, from its run state alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from apbmm_common.metrics import metric
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.repetitions import share_variance
from apbmm_common.run_file import ObjectiveSection, RunSpec
from apbmm_common.run_file.constraints import Constraint
from apbmm_master.journal.events import BenchmarkEstimates
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import Attempt, Evaluation, FirstStep
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.answer_tables import ScoredPart
from apbmm_master.search import reference_scaling
from apbmm_master.search.arrays import Array
from apbmm_master.search.errors import ReferenceScaleError
from apbmm_master.search.pareto import hypervolume
from apbmm_master.search.reference_scaling import (
    Measurement,
    ScaledObjective,
    check_references,
    objective_variance,
    objective_vector,
)

ENDLESS = 1e12
"""Tokens of an answer that never ends, as a number that can be computed with."""
ROUNDING = 1e-9
"""Share of a limit by which a mean may miss it because the sums are rounded."""


@dataclass(frozen=True, slots=True)
class ScoredEvaluation:
    """A completed evaluation with its objective vector, hypervolume and front size after it.

    ``broken`` are the constraints that it breaks: with any it is no member of the front.
    """

    evaluation: Evaluation
    objectives: tuple[float, ...]
    hypervolume: float
    front: int
    broken: tuple[Constraint, ...] = ()


@dataclass(frozen=True)
class Scores:
    """Front and hypervolume after the last of ``completed`` evaluations.

    ``front``: objective vectors by evaluation id, in the order of completion. All empty until all
    references are measured. Merges that break a constraint are neither in the front nor in the
    hypervolume. Merges that the run has learnt from an earlier one are, and not in ``completed``;
    ``learnt`` is the hypervolume of these alone.
    """

    completed: int = 0
    front: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    hypervolume: float = 0.0
    learnt: float = 0.0


def objectives_of(spec: RunSpec) -> tuple[ScaledObjective, ...]:
    """The run's objectives, with the benchmarks each one averages over."""
    every = dict.fromkeys((benchmark.name for benchmark in spec.benchmarks), 1.0)
    return tuple(_scaled(objective, objective.benchmarks or every) for objective in spec.objectives)


def _scaled(objective: ObjectiveSection, weights: Mapping[str, float]) -> ScaledObjective:
    return ScaledObjective(
        objective.name,
        objective.metric,
        tuple(weights),
        objective.expert or "",
        objective.vanilla or "",
        weights=tuple(weights.values()),
        scale=objective.scale,
        target=objective.target,
        better=objective.better,
    )


def margins_of(spec: RunSpec) -> tuple[ScaledObjective, ...]:
    """The run's constraints as what the search learns: at least 0 where a constraint is met.

    In the units of the metric.
    """
    return tuple(
        ScaledObjective(
            each.name,
            each.metric,
            each.benchmarks,
            scale=(each.limit, each.limit + (1.0 if each.side == "at_least" else -1.0)),
        )
        for each in spec.constraints
    )


def told_of(spec: RunSpec) -> tuple[ScaledObjective, ...]:
    """What the search is told: the objectives, then the margins of the constraints."""
    return (*objectives_of(spec), *margins_of(spec))


def measured_margins(spec: RunSpec, measured: Measurement) -> tuple[float, ...]:
    """By how much raw metrics meet each constraint, in the units of its metric; below 0: not.

    A mean that misses its limit by rounding alone is at the limit.
    """
    margins = objective_vector(margins_of(spec), measured, {})
    return tuple(
        0.0 if abs(margin) <= ROUNDING * abs(constraint.limit) else float(margin)
        for constraint, margin in zip(spec.constraints, margins, strict=True)
    )


def broken_constraints(spec: RunSpec, measured: Measurement) -> tuple[Constraint, ...]:
    """The constraints that raw metrics break."""
    margins = measured_margins(spec, measured)
    return tuple(c for c, margin in zip(spec.constraints, margins, strict=True) if margin < 0.0)


def broken_by(run_state: RunState, evaluation: Evaluation) -> tuple[Constraint, ...]:
    """The constraints that a completed evaluation breaks; a reference may break one too."""
    assert run_state.spec is not None
    return broken_constraints(run_state.spec, measurement_of(evaluation))


def measurement_of(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Raw metrics of a completed evaluation for Eq. 2: benchmark -> metrics, and "questions"."""
    return raw_metrics(evaluation.body) if isinstance(evaluation.body, Evaluated) else {}


def raw_metrics(body: Evaluated) -> dict[str, dict[str, float]]:
    """The same of a result's body."""
    return {
        name: {**result.metrics, "questions": result.questions}
        for name, result in body.benchmarks.items()
    }


def missing_metrics(spec: RunSpec, body: Evaluated) -> str:
    """Says which metrics of objectives and constraints a result lacks; empty if it has them all."""
    missing = {
        f"benchmark {benchmark} has no {objective.metric}"
        for objective in told_of(spec)
        for benchmark in objective.benchmarks
        if objective.metric not in body.benchmarks[benchmark].metrics
    }
    return "; ".join(sorted(missing))


def references_of(run_state: RunState) -> dict[str, Measurement]:
    """Raw metrics of the references that are measured."""
    return {e.id: measurement_of(e) for e in measured_references(run_state)}


def measured_references(run_state: RunState) -> list[Evaluation]:
    """The reference evaluations that are complete."""
    found = (run_state.evaluations.get(name) for name in run_state.references)
    return [e for e in found if e is not None and e.state is EvaluationState.DONE]


def check_scaling(run_state: RunState) -> None:
    """Raise the error of `check_references` if Eq. 2 cannot be applied to the references."""
    if run_state.spec is not None and run_state.references_done:
        check_references(objectives_of(run_state.spec), references_of(run_state))


def _scalable(run_state: RunState) -> bool:
    """Whether Eq. 2 can be applied. A search whose references say no has ended with that error."""
    if not run_state.confirms:
        return True
    try:
        check_scaling(run_state)
    except ReferenceScaleError:
        return False
    return True


def score(run_state: RunState, evaluation: Evaluation) -> tuple[float, ...]:
    """Objective vector of one completed evaluation; all references must be measured."""
    assert run_state.spec is not None
    return _by_eq_2(objective_vector, objectives_of(run_state.spec), run_state, evaluation)


def told_values(run_state: RunState, evaluation: Evaluation) -> tuple[float, ...]:
    """What the search is told of one completed evaluation: `score`, then the margins."""
    assert run_state.spec is not None
    margins = measured_margins(run_state.spec, measurement_of(evaluation))
    return (*score(run_state, evaluation), *margins)


def known_noise(run_state: RunState, evaluation: Evaluation) -> tuple[float, ...]:
    """Variance of `told_values` that the search is told; see `objective_variance`."""
    assert run_state.spec is not None
    learned = learned_variances(evaluation.body) if isinstance(evaluation.body, Evaluated) else {}
    rule = partial(objective_variance, learned=learned)
    return _by_eq_2(rule, told_of(run_state.spec), run_state, evaluation)


def estimated_objectives(
    run_state: RunState, estimate: BenchmarkEstimates
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Objective vector of a merge of which means over all answers are estimated, and its variance.

    The variance is that of the estimate alone; see `reference_scaling.estimated_objectives`.
    """
    assert run_state.spec is not None
    count = len(run_state.spec.objectives)
    means, variances = estimated_values(run_state, estimate)
    return means[:count], variances[:count]


def estimated_values(
    run_state: RunState, estimate: BenchmarkEstimates
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What the search is told of such a merge: `estimated_objectives`, then the margins."""
    assert run_state.spec is not None
    told, references = told_of(run_state.spec), references_of(run_state)
    means, variances = reference_scaling.estimated_objectives(told, estimate, references)
    return tuple(map(float, means)), tuple(map(float, variances))


def breaks_by_estimate(spec: RunSpec, estimate: BenchmarkEstimates) -> tuple[Constraint, ...]:
    """The constraints that the estimated means break."""
    means = {
        benchmark: {name: mean for name, (mean, _) in found.items()}
        for benchmark, found in estimate.items()
    }
    return broken_constraints(spec, means)


def best_reachable(run_state: RunState, step: FirstStep) -> tuple[float, ...]:
    """Objective vector of a merge that has paused, if it answers the rest right, in no token."""
    parts = {
        name: ScoredPart(part.answered, step.scores[name], part.tokens)
        for name, part in step.body.benchmarks.items()
    }
    answers = {name: part.answers for name, part in step.body.benchmarks.items()}
    return best_with(run_state, parts, answers)


def best_with(
    run_state: RunState, parts: Mapping[str, ScoredPart], answers: Mapping[str, int]
) -> tuple[float, ...]:
    """Objective vector of a merge, if it answers right, in no token, all that it has not answered.

    So it is at least what the merge would be measured to have. An objective by which fewer right
    answers or more tokens are better has what all wrong ones, in endless tokens, would give. A
    merge that breaks a constraint whatever it still answers has -inf in each objective.
    ``answers``: of each benchmark in full.
    """
    assert run_state.spec is not None
    spec, references = run_state.spec, references_of(run_state)
    best, worst = {}, {}
    for name, whole in answers.items():
        part = parts.get(name, ScoredPart())
        accuracy = (part.scores + whole - part.answered) / whole
        best[name] = {"accuracy": accuracy, "tokens": part.tokens / whole}
        worst[name] = {"accuracy": part.scores / whole, "tokens": ENDLESS}
    reachable = np.maximum(
        *(objective_vector(told_of(spec), end, references) for end in (best, worst))
    )
    margins = reachable[len(spec.objectives) :]
    if any(m < -ROUNDING * abs(c.limit) for m, c in zip(margins, spec.constraints, strict=True)):
        return (-math.inf,) * len(spec.objectives)
    return tuple(map(float, reachable[: len(spec.objectives)]))


def learned_variances(body: Evaluated) -> dict[str, dict[str, float]]:
    """Variances of the means of benchmarks whose questions have several answers, by metric.

    A share varies as the means of questions do (`share_variance`). What varies between questions is
    not told of other metrics, such as tokens (see `apbmm_common.metrics`): of these only what the
    draws add, the variance of the answers to one question over the number of all answers.
    """
    return {
        benchmark: {
            name: (
                spread.within / result.answers
                if metric(name).variance is None
                else share_variance(result.metrics[name], result.questions, spread.between)
            )
            for name, spread in result.spreads.items()
        }
        for benchmark, result in body.benchmarks.items()
    }


def _by_eq_2(
    rule: Callable[[Sequence[ScaledObjective], Measurement, Mapping[str, Measurement]], Array],
    objectives: Sequence[ScaledObjective],
    run_state: RunState,
    evaluation: Evaluation,
) -> tuple[float, ...]:
    """One number for each objective, from what was measured of model and references."""
    found = rule(objectives, measurement_of(evaluation), references_of(run_state))
    return tuple(float(value) for value in found)


class ScoreHistory:
    """The scores of one run after each completed evaluation.

    Each completed evaluation is scored once, however often `update` is called.
    """

    def __init__(self) -> None:
        self._begin(None)

    def _begin(self, run_state: RunState | None) -> None:
        self._run_state = run_state
        self._scored: list[ScoredEvaluation] = []
        self._front: dict[str, tuple[float, ...]] = {}
        self._hypervolume = 0.0
        self.learnt: float | None = None
        """Hypervolume of what the run has learnt; None until it is known."""

    def update(self, run_state: RunState) -> Scores:
        """Score the evaluations completed since the last call; returns the scores after them.

        Another run state than that of the last call, as one read back from the journal, is scored
        from its beginning.
        """
        if run_state is not self._run_state:
            self._begin(run_state)
        if run_state.spec is None or not run_state.references_done or not _scalable(run_state):
            return Scores()
        if self.learnt is None:
            for name in run_state.learning.evaluations:
                self._add(run_state, run_state.evaluations[name])
            self.learnt = self._hypervolume
        for name in run_state.completed[len(self._scored) :]:
            evaluation = run_state.evaluations[name]
            objectives, broken = self._add(run_state, evaluation)
            self._scored.append(
                ScoredEvaluation(
                    evaluation, objectives, self._hypervolume, len(self._front), broken
                )
            )
        return Scores(len(self._scored), dict(self._front), self._hypervolume, self.learnt)

    def history(self, begin: int = 0) -> list[ScoredEvaluation]:
        """The scored evaluations in the order of their completion, from number ``begin`` on."""
        return self._scored[begin:]

    def _add(
        self, run_state: RunState, evaluation: Evaluation
    ) -> tuple[tuple[float, ...], tuple[Constraint, ...]]:
        """Objectives of an evaluation and the constraints that it breaks.

        The front takes it in unless it breaks one or another member dominates it.
        """
        assert run_state.spec is not None
        objectives = score(run_state, evaluation)
        broken = broken_by(run_state, evaluation)
        if broken:
            return objectives, broken
        new = np.array(objectives, dtype=np.float64)
        points = np.array(list(self._front.values()), dtype=np.float64).reshape(-1, len(new))
        different = (points != new).any(axis=1)
        if not (_no_worse(points, new) & different).any():
            dominated = _no_worse(new, points) & different
            for name in [n for n, out in zip(self._front, dominated, strict=True) if out]:
                del self._front[name]
            self._front[evaluation.id] = objectives
            front = np.array(list(self._front.values()), dtype=np.float64)
            self._hypervolume = hypervolume(front, run_state.spec.hypervolume_reference)
        return objectives, ()


def _no_worse(points: Array, others: Array) -> npt.NDArray[np.bool_]:
    """For each row: whether ``points`` is at least ``others`` in every objective.

    Shapes (n, m) and (m,), in either order; the result has shape (n,).
    """
    return np.asarray((points >= others).all(axis=1))


def scores_of(run_state: RunState) -> Scores:
    """The scores of a run after its last completed evaluation.

    Use a `ScoreHistory` to ask repeatedly while the run goes on.
    """
    return ScoreHistory().update(run_state)


def search_window(run_state: RunState, now: float) -> tuple[float, float] | None:
    """When the search began and ended, in Unix seconds.

    It begins with the first lease of a vector that is not of the initial design; before there is
    one, with the first lease at all. It ends with the end of the last attempt, and at ``now`` while
    an attempt is in progress. None when nothing was leased.
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


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """Seconds that a worker's engine had leases, and seconds that the worker was connected."""

    busy: float = 0.0
    present: float = 0.0


def worker_loads(run_state: RunState, now: float) -> dict[str, WorkerLoad]:
    """The load of each worker within `search_window`, its end included.

    At the end of the search workers find no more work. Empty when nothing was leased.
    """
    window = search_window(run_state, now)
    if window is None:
        return {}
    start, end = window
    stays: dict[str, list[tuple[float, float]]] = {}
    for stay in run_state.sessions.stays:
        left = end if stay.left is None else stay.left
        stays.setdefault(stay.worker, []).append((max(stay.joined, start), min(left, end)))
    busy = dict.fromkeys(stays, 0.0)
    for evaluation in run_state.evaluations.values():
        for attempt in evaluation.attempts:
            for span in stays.get(attempt.worker, ()):
                until = end if attempt.engine_until is None else attempt.engine_until
                busy[attempt.worker] += overlap(attempt.leased_at, until, *span)
    present = {
        worker: sum(max(0.0, left - joined) for joined, left in spans)
        for worker, spans in stays.items()
    }
    return {worker: WorkerLoad(busy[worker], present[worker]) for worker in stays}


def load_rate(run_state: RunState, now: float) -> float | None:
    """Seconds that engines had leases, divided by the seconds that their workers were connected.

    Both are those of `worker_loads`. None when nothing was leased.
    """
    loads = worker_loads(run_state, now).values()
    present = sum(load.present for load in loads)
    return sum(load.busy for load in loads) / present if present > 0 else None


def _end(attempt: Attempt, default: float) -> float:
    return default if attempt.ended_at is None else attempt.ended_at


def overlap(begin: float, end: float, start: float, stop: float) -> float:
    """Length that the intervals ``begin`` to ``end`` and ``start`` to ``stop`` share."""
    return max(0.0, min(end, stop) - max(begin, start))
