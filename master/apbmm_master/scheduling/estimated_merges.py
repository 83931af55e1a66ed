"""Merges that have answered a first step: which are beaten, and which go on at the end. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from apbmm_master.journal.assessment.estimate_checks import is_audited
from apbmm_master.journal.assessment.scores import best_reachable, estimated_values
from apbmm_master.journal.costs.budget import Limit, LimitName, limits
from apbmm_master.journal.events import BenchmarkEstimates
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import Evaluation, FirstStep
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.search.arrays import Array
from apbmm_master.search.pareto import front
from apbmm_master.search.partial_answers.steps import (
    Paused,
    certainly_beaten,
    chance_of_feasibility,
    completed_next,
    expected_gain,
    reserve,
)

Expected = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations of objectives, then of the margins of constraints."""
OVERRUN = 1.25
"""A paused merge may be completed where the rest of the budget, times this, is what it costs."""
SMALLEST_COST = 1e-9
LEAST_CHANCE = 0.05
"""A paused merge that is less likely to meet all constraints gains nothing."""


@dataclass(frozen=True, eq=False)
class EstimatedMerge:
    """A merge that has answered its first step and is not measured in full.

    - ``mean``, ``deviation`` (m,): of the objectives that it would have in full;
    - ``feasible``: the probability that it would meet all constraints;
    - ``meets``: whether it is expected to meet each of them;
    - ``best`` (m,): the best that these objectives can be, -inf if it breaks a constraint anyhow;
    - ``tokens``: what its other answers are expected to take;
    - ``audited``: it is completed to check its estimate.
    """

    evaluation: Evaluation
    step: FirstStep
    mean: Array
    deviation: Array
    feasible: float
    meets: bool
    best: Array
    tokens: float
    audited: bool

    def cost(self, run_state: RunState, limit: Limit) -> float:
        """What it costs to complete it, in the unit of a limit; over 0."""
        rest = 1.0 - self.step.share
        typical = run_state.spending.typical
        match limit.name:
            case "generated_tokens":
                cost = self.tokens
            case "gpu_hours" if typical.tokens:
                cost = limit.each * self.tokens * typical.count / typical.tokens
            case _:
                cost = limit.each * rest
        return max(cost, SMALLEST_COST)


@dataclass
class EstimatedMerges:
    """Computes each `EstimatedMerge` of a run once for each of its estimates."""

    _known: dict[str, tuple[BenchmarkEstimates, EstimatedMerge]] = field(default_factory=dict)

    def update(
        self,
        run_state: RunState,
        newest: Mapping[str, BenchmarkEstimates],
        expected: Mapping[str, Expected] = MappingProxyType({}),
    ) -> tuple[EstimatedMerge, ...]:
        """The merges that pause, or go on after a pause, and whose estimates the search knows.

        ``newest`` has later estimates than those that the search was told, and ``expected`` what a
        surrogate that knows all of these expects of objectives and margins: a merge that looks good
        by chance looks less so among others like it. Both come together.
        """
        known = self._known
        self._known = {}
        for evaluation in run_state.of_budget(EvaluationState.PAUSED, EvaluationState.ACTIVE):
            told, step = evaluation.estimate, evaluation.step
            if told is None or step is None:
                continue
            estimate = newest.get(evaluation.id, told)
            same = known.get(evaluation.id)
            if same is None or same[0] is not estimate or same[1].evaluation is not evaluation:
                values = expected.get(evaluation.id) or _by_itself(run_state, estimate)
                same = estimate, _estimated(run_state, evaluation, step, estimate, values)
            self._known[evaluation.id] = same
        return tuple(merge for _, merge in self._known.values())


def _by_itself(run_state: RunState, estimate: BenchmarkEstimates) -> Expected:
    mean, variance = estimated_values(run_state, estimate)
    return mean, tuple(map(math.sqrt, variance))


def _estimated(
    run_state: RunState,
    evaluation: Evaluation,
    step: FirstStep,
    estimate: BenchmarkEstimates,
    values: Expected,
) -> EstimatedMerge:
    assert run_state.spec is not None
    parts, count = step.body.benchmarks, len(run_state.spec.objectives)
    mean, deviation = np.array(values)
    best = np.array(best_reachable(run_state, step))
    can_meet = bool(np.isfinite(best).all())
    chance = chance_of_feasibility(mean[count:], deviation[count:])
    tokens = sum(estimate[name]["tokens"][0] * part.answers for name, part in parts.items())
    return EstimatedMerge(
        evaluation,
        step,
        mean[:count],
        deviation[:count],
        chance if can_meet else 0.0,
        can_meet and bool((mean[count:] >= 0.0).all()),
        best,
        tokens - step.tokens,
        is_audited(run_state, evaluation),
    )


def beaten(merges: Sequence[EstimatedMerge], measured: Array) -> list[EstimatedMerge]:
    """Those that whatever they still answer cannot be better than ``measured`` (n, m) merges.

    Those that check the estimates are left out: without them the checks would be biased.
    """
    open_ = [merge for merge in merges if not merge.audited]
    if not (open_ and len(measured)):
        return []
    # Of a run's many paused merges most can still be better than each measured one in something.
    best = np.stack([merge.best for merge in open_])
    suspects = (best <= measured.max(axis=0)).all(axis=1)
    return [
        merge
        for merge, suspect in zip(open_, suspects, strict=True)
        if suspect and certainly_beaten(merge.best, measured)
    ]


def kept_for_completion(
    run_state: RunState, paused: Sequence[EstimatedMerge], measured: Array
) -> dict[LimitName, float]:
    """What of each limit is kept to complete the front of all estimates and measurements."""
    assert run_state.spec is not None
    on_front = _on_front(paused, measured)
    share = run_state.spec.steps.kept
    if on_front:
        share = min(share, _missing_on_front(run_state, paused, measured) / len(on_front))
    return {
        limit.name: share
        * reserve([_paused(m, m.cost(run_state, limit)) for m in on_front], measured)
        for limit in limits(run_state)
    }


def _missing_on_front(
    run_state: RunState, paused: Sequence[EstimatedMerge], measured: Array
) -> float:
    """How many merges the front may still get at the end; infinite unless the run file says.

    Measured merges that a paused one is expected to beat do not count: they are to leave the front.
    """
    assert run_state.spec is not None
    most = run_state.spec.steps.front
    if most is None:
        return math.inf
    means = [merge.mean[None] for merge in paused if merge.meets]
    found = front(np.concatenate([measured, *means]))
    return max(0, most - int((found < len(measured)).sum()))


def _on_front(paused: Sequence[EstimatedMerge], measured: Array) -> list[EstimatedMerge]:
    """Those that no other of them and no measured merge is expected to beat.

    They are expected to meet all constraints. While that holds for none, and nothing is measured
    that meets them, it is the likeliest one, so that something is kept to find out.
    """
    feasible = [merge for merge in paused if merge.meets]
    if not feasible:
        hopeful = [] if len(measured) else [m for m in paused if m.feasible >= LEAST_CHANCE]
        return sorted(hopeful, key=lambda merge: -merge.feasible)[:1]
    means = np.stack([merge.mean for merge in feasible])
    found = front(np.concatenate([means, measured.reshape(-1, means.shape[1])]))
    return [feasible[i] for i in found if i < len(feasible)]


def next_to_complete(
    run_state: RunState,
    paused: Sequence[EstimatedMerge],
    underway: Sequence[EstimatedMerge],
    measured: Array,
) -> EstimatedMerge | None:
    """The paused merge that goes on now.

    None where the budget allows none of use, and where the front has as many as `[steps] front`.
    Its expected gain is that beyond what is measured and what is completed ``underway``, times the
    probability that it meets all constraints (Gardner et al., 2014); below `LEAST_CHANCE` it is 0.
    Of those underway, the merges in ``paused`` are not in the costs that the run state has in
    progress.
    """
    assert run_state.spec is not None
    begun = [merge for merge in underway if merge in paused]
    open_ = [merge for merge in paused if merge not in begun]
    if not open_:
        return None
    costs = np.zeros(len(open_))
    for limit in limits(run_state):
        left = limit.unused - sum(merge.cost(run_state, limit) for merge in begun)
        if left <= 0.0:
            return None
        costs = np.maximum(costs, [merge.cost(run_state, limit) / left for merge in open_])
    reference = np.array(run_state.spec.hypervolume_reference)
    rivals = np.concatenate([measured, *(merge.mean[None] for merge in underway if merge.meets)])
    if _missing_on_front(run_state, open_, rivals) < 1:
        return None
    gains = np.array(
        [merge.feasible if merge.feasible >= LEAST_CHANCE else 0.0 for merge in open_]
    ) * expected_gain(
        np.stack([merge.mean for merge in open_]),
        np.stack([merge.deviation for merge in open_]),
        rivals,
        reference,
    )
    choices = [_paused(merge, float(cost)) for merge, cost in zip(open_, costs, strict=True)]
    index = completed_next(choices, gains, OVERRUN)
    return None if index is None else open_[index]


def _paused(merge: EstimatedMerge, cost: float) -> Paused:
    return Paused(merge.mean, merge.deviation, cost)
