"""Whether the hypervolume has stopped growing, so that the run's patience is at an end."""

from __future__ import annotations

from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.run_state import RunState
from apbmm_master.journal.scores import ScoreHistory
from apbmm_master.journal.spending import gpu_seconds_of_result

ROUNDING = 1e-9


def standstill_of_hypervolume(run_state: RunState, scores: ScoreHistory) -> str:
    """Why the run ends by `BudgetSection.patience`, in words; empty while it goes on.

    ``scores`` are those after each completed evaluation, up to date. The present hypervolume is
    compared with that before the last merges whose evaluations cost as much as `patience` mean
    ones, in GPU-seconds (`gpu_seconds_of_result`). The evaluations of the initial design
    come first and are not among those.
    """
    assert run_state.spec is not None
    budget, merges = run_state.spec.budget, run_state.spending.merges
    history = scores.history()
    if budget.patience is None or not history:
        return ""
    mean = merges.gpu_seconds / merges.count
    designed = run_state.count(EvaluationState.DONE, purposes=("initial",))
    spent = 0.0
    for index in range(len(history) - 1, designed - 1, -1):
        spent += gpu_seconds_of_result(history[index].evaluation) / mean if mean else 1.0
        if spent < budget.patience - ROUNDING:
            continue
        before = history[index - 1].hypervolume if index else scores.learnt or 0.0
        growth = history[-1].hypervolume - before
        if growth > budget.patience_growth * before:
            return ""
        share = growth / before if before else 0.0
        return (
            f"the hypervolume grew by {share:.2%} over the last {len(history) - index} evaluations"
        )
    return ""
