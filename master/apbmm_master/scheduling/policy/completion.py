"""Completion of paused merges: what of the budget is kept for it, and which merge is next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from apbmm_master.journal.costs.budget import LimitName, limits
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.scheduling.policy.estimated_merges import EstimatedMerge
from apbmm_master.search.arrays import Array
from apbmm_master.search.pareto import front
from apbmm_master.search.partial_answers.steps import Paused, completed_next, expected_gain, reserve

Kept = Mapping[LimitName, float]
"""What of each limit is kept to complete merges that have paused."""
OVERRUN = 1.25
"""A paused merge may be completed where the rest of the budget, times this, is what it costs."""
LEAST_CHANCE = 0.05
"""A paused merge that is less likely to meet all constraints gains nothing."""


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
