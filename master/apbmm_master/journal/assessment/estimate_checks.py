"""How good the estimates were of merges that were completed to check them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.search.partial_answers.steps import audited

TWO_SIDED_95 = 1.959964
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class EstimateChecks:
    """Of ``merges`` drawn at random: how many estimated means, and how many were within 95 %.

    A merge has two means for each benchmark, of accuracy and of tokens.
    """

    merges: int = 0
    means: int = 0
    within: int = 0


def is_audited(run_state: RunState, evaluation: Evaluation) -> bool:
    """Whether a merge that pauses is completed to check its estimate."""
    assert run_state.spec is not None
    return audited(run_state.spec.seed, evaluation.ordinal, run_state.spec.steps.audits)


def checks_of(run_state: RunState) -> EstimateChecks:
    """The checks of all merges so far that were drawn, were estimated and are complete."""
    merges = means = within = 0
    for evaluation in run_state.of_budget(EvaluationState.DONE):
        if evaluation.estimate is None or not is_audited(run_state, evaluation):
            continue
        found = _within(evaluation)
        merges += 1
        means += len(found)
        within += sum(found)
    return EstimateChecks(merges, means, within)


def _within(evaluation: Evaluation) -> list[bool]:
    """For each estimated mean: whether the measured one is in the 95 % interval around it."""
    assert isinstance(evaluation.body, Evaluated)
    return [
        abs(result.metrics[metric] - mean)
        <= TWO_SIDED_95 * math.sqrt(variance) + ROUNDING * max(1.0, abs(mean))
        for name, result in evaluation.body.benchmarks.items()
        for metric, (mean, variance) in (evaluation.estimate or {}).get(name, {}).items()
        if metric in result.metrics
    ]
