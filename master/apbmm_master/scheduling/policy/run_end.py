"""When a run ends, by success or failure, and when it begins to finish."""

from __future__ import annotations

from apbmm_common.run_file import RunSpec
from apbmm_master.journal.assessment.first_steps import has_steps
from apbmm_master.journal.costs.budget import limits, reached, reached_cost, room
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.scheduling.policy.completion import Kept, next_to_complete
from apbmm_master.scheduling.policy.decisions import BeginFinishing, FinishRun
from apbmm_master.scheduling.policy.queued import begun
from apbmm_master.scheduling.policy.situation import Situation


def finish_run(run_state: RunState, spec: RunSpec, situation: Situation) -> FinishRun | None:
    """The end of the run, if it is due: by failure at once, else when nothing is in progress."""
    if run_state.finished:
        return None
    failure = _failure(run_state, spec)
    if failure is not None:
        return failure
    if any(True for _ in run_state.active_attempts()):
        return None
    if not run_state.references_done:
        return _spent_without_references(run_state)
    return _success(run_state, situation)


def _failure(run_state: RunState, spec: RunSpec) -> FinishRun | None:
    """The end of a run with a failed reference, or with more failures than its budget allows.

    An evaluation that failed because its workers were lost is left out of the count: the master
    cannot tell a merge that takes hosts down from a fleet that is preempted often, and preemption
    must not end a run. The budget's place of such an evaluation goes to another vector.
    """
    failures = 0
    for evaluation in run_state.of_state(EvaluationState.FAILED):
        if not evaluation.in_budget:
            return FinishRun(f"{evaluation.id} could not be measured: {evaluation.message}", True)
        failures += not evaluation.failed_by_lost_workers
    if failures > spec.budget.failures:
        return FinishRun(f"{failures} vectors failed, more than the budget allows", True)
    return None


def _spent_without_references(run_state: RunState) -> FinishRun | None:
    """The end of a run whose limit of cost is spent before it has anything to scale by."""
    limit = reached_cost(run_state)
    if limit is None:
        return None
    return FinishRun(
        f"{limit.in_words} are spent before all references were measured (hint: raise "
        f"budget.{limit.name}, and the same command goes on)",
        True,
    )


def _success(run_state: RunState, situation: Situation) -> FinishRun | None:
    """The end of a run that has done what it was to do, when nothing is in progress."""
    done = run_state.count(EvaluationState.DONE)
    in_part = run_state.count(EvaluationState.PAUSED, EvaluationState.STOPPED)
    completed = f"{done} evaluations completed"
    if in_part:
        completed += f", {in_part} merge{'s' if in_part > 1 else ''} measured in part"
    limit = reached(run_state)
    if limit is not None:
        is_number = limit.name == "evaluations"
        return FinishRun(completed if is_number else f"{limit.in_words} are spent, {completed}")
    if run_state.finishing:
        return _end_of_finishing(run_state, situation, completed)
    if has_steps(run_state):  # `decide` begins the finishing first
        return None
    if situation.stalled:
        return FinishRun(f"{situation.stalled}, {completed}", by_patience=True)
    if _has_no_more_to_try(run_state, situation):
        return FinishRun(f"the method has no more to try after {done} evaluations")
    return None


def _end_of_finishing(
    run_state: RunState, situation: Situation, completed: str
) -> FinishRun | None:
    """The end of a run that only completes paused merges; None while it goes on."""
    if not _is_finished(run_state, situation):
        return None
    by_patience = bool(situation.stalled) or run_state.by_patience
    reason = situation.stalled or run_state.finishing
    return FinishRun(f"{reason}: {completed}", by_patience=by_patience)


def _is_finished(run_state: RunState, situation: Situation) -> bool:
    """Whether no merge goes on that has paused, or was begun, when nothing is in progress."""
    if room(run_state) > 0 and begun(run_state):
        return False
    if situation.stalled:
        return True
    if any(e.estimate is None for e in run_state.of_state(EvaluationState.PAUSED)):
        return False  # they are decided on once they are estimated
    return next_to_complete(run_state, situation.paused, (), situation.measured) is None


def begin_finishing(run_state: RunState, situation: Situation, kept: Kept) -> BeginFinishing | None:
    """The finishing of a run that measures in steps, once it begins no further merge."""
    if any(0.0 < kept.get(limit.name, 0.0) >= limit.unused for limit in limits(run_state)):
        return BeginFinishing("the budget's rest went into the front")
    if situation.stalled:
        return BeginFinishing(situation.stalled, by_patience=True)
    if _has_no_more_to_try(run_state, situation):
        return BeginFinishing("the method has no more to try")
    return None


def _has_no_more_to_try(run_state: RunState, situation: Situation) -> bool:
    """Whether the method will propose nothing more, and all that it proposed was begun."""
    queued = any(True for _ in run_state.of_state(EvaluationState.QUEUED))
    return situation.exhausted and not queued and not situation.asking
