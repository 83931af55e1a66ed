"""Merges that can no longer be members of the front: which are ended or stopped, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from apbmm_master.journal.state.evaluations import Attempt, Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.scheduling.policy.decisions import EndAttempt, StopEvaluation
from apbmm_master.scheduling.policy.estimated_merges import EstimatedMerge
from apbmm_master.scheduling.policy.situation import Situation
from apbmm_master.search.arrays import Array
from apbmm_master.search.partial_answers.steps import certainly_beaten

BEATEN = "a measured merge beats whatever it still answers"
INFEASIBLE = "it breaks a constraint whatever it still answers"
ROUNDING = 1e-9
"""What the objectives of a sum of scores may be below those of the mean that is reported."""


def attempts_to_end(run_state: RunState, situation: Situation) -> Iterator[EndAttempt]:
    """The attempts whose merges are beaten before they have answered all."""
    for evaluation, attempt in beaten_in_progress(
        run_state, situation.reachable, situation.measured
    ):
        reason = _why_stopped(situation.reachable[evaluation.id])
        yield EndAttempt(evaluation.id, attempt.lease, reason)


def beaten_in_progress(
    run_state: RunState, reachable: Mapping[str, Array], measured: Array
) -> Iterator[tuple[Evaluation, Attempt]]:
    """The merges that whatever they still answer cannot be better than ``measured`` (n, m) ones."""
    if not (reachable and len(measured)):
        return
    for evaluation, attempt in run_state.active_attempts():
        best = reachable.get(evaluation.id)
        if best is not None and not attempt.beaten and certainly_beaten(best + ROUNDING, measured):
            yield evaluation, attempt


def merges_to_stop(situation: Situation) -> list[StopEvaluation]:
    """The paused merges that never go on, for they are beaten."""
    return [
        StopEvaluation(merge.evaluation.id, _why_stopped(merge.best))
        for merge in _beaten_paused(situation.paused, situation.measured)
    ]


def _beaten_paused(merges: Sequence[EstimatedMerge], measured: Array) -> list[EstimatedMerge]:
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


def _why_stopped(best: Array) -> str:
    """Why a merge that can become ``best`` (m,) at the best is no member of the front."""
    return BEATEN if np.isfinite(best).all() else INFEASIBLE
