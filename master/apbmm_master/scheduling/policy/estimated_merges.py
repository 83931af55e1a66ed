"""Merges that have answered a first step: what each is expected to become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from apbmm_master.journal.assessment.estimate_checks import is_audited
from apbmm_master.journal.assessment.scores import best_reachable, estimated_values
from apbmm_master.journal.costs.budget import Limit
from apbmm_master.journal.events import BenchmarkEstimates
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import Evaluation, FirstStep
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.search.arrays import Array
from apbmm_master.search.partial_answers.steps import chance_of_feasibility

Expected = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations of objectives, then of the margins of constraints."""
SMALLEST_COST = 1e-9


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
