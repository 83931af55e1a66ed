"""Whether the hypervolume has stopped growing, so that the run's patience is at an end."""

from __future__ import annotations

from apbmm_master.journal.assessment.scores import ScoreHistory
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.state.spending import gpu_seconds_of_result

ROUNDING = 1e-9


def standstill_of_hypervolume(run_state: RunState, scores: ScoreHistory) -> str:
    """Why the run ends by `BudgetSection.patience`, in words; empty while it goes on.

    ``scores`` are those after each completed evaluation, up to date. The present hypervolume is
    compared with that before the last merges whose evaluations cost as much as `patience` mean
    ones, in GPU-seconds (`gpu_seconds_of_result`). Merges that were stopped, for they could not
    make it grow, are among them, at what they cost. The evaluations of the initial design come
    first and are not among those. Once the run is finishing, all that was completed since counts,
    and nothing else.
    """
    assert run_state.spec is not None
    budget, merges = run_state.spec.budget, run_state.spending.merges
    history = scores.history()
    if budget.patience is None or not history:
        return ""
    mean = merges.gpu_seconds / merges.count
    if run_state.finishing:
        first = sum(done.evaluation.done_at <= run_state.finishing_at for done in history)
    else:
        first = run_state.count(EvaluationState.DONE, purposes=("initial",))
    stopped = _stopped(run_state)
    spent, count = 0.0, 0
    for index in range(len(history), first - 1, -1):
        if index < len(history):
            seconds = gpu_seconds_of_result(history[index].evaluation)
            spent, count = spent + (seconds / mean if mean else 1.0), count + 1
        since = history[index - 1].evaluation.done_at if index else 0.0
        while stopped and stopped[-1][0] > since:
            spent, count = spent + (stopped.pop()[1] / mean if mean else 0.0), count + 1
        if spent < budget.patience - ROUNDING:
            continue
        earlier = history[index - 1].hypervolume if index else scores.learnt or 0.0
        growth = history[-1].hypervolume - earlier
        if growth > budget.patience_growth * earlier:
            return ""
        share = growth / earlier if earlier else 0.0
        return f"the hypervolume grew by {share:.2%} over the last {count} evaluations"
    return ""


def _stopped(run_state: RunState) -> list[tuple[float, float]]:
    """When the search's merges that are stopped last paused, and what that result has cost."""
    return sorted(
        (evaluation.step.paused_at, gpu_seconds_of_result(evaluation))
        for evaluation in run_state.of_budget(EvaluationState.STOPPED)
        if evaluation.purpose == "search"
        and evaluation.step is not None
        and evaluation.step.paused_at > run_state.finishing_at
    )
