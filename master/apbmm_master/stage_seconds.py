"""Where the seconds of evaluations go: stage by stage, and how busy the engines are with it.

Stages come from the workers with each result (``merge``, ``load``, ``evaluate``, ``report``, and
those of an engine's start), ``propose`` from the journal, and ``wait`` is the time from one result
of a worker to its next lease, in which the proposal is made.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from apbmm_common.messages import Evaluated
from apbmm_common.stages import in_order
from apbmm_master.attendance import Presence
from apbmm_master.evaluations import Attempt, Evaluation
from apbmm_master.ledger import Ledger
from apbmm_master.lifecycle import AttemptState

Work = tuple[Evaluation, Attempt]


def stage_summary(ledger: Ledger) -> dict[str, Any]:
    """Mean seconds of each stage, and the share of the workers' time that engines computed.

    Over the search (before it has begun, over all that counts): ``seconds`` by stage, in the order
    in which they come, over those evaluations that have it; ``evaluations``, their number;
    ``engine_busy``, seconds of ``evaluate`` over those from each worker's first lease to its last
    result while the same master lived, None when nothing is complete.
    """
    found = defaultdict[str, list[float]](list)
    done = _done(ledger)
    for evaluation, _ in done:
        assert isinstance(evaluation.body, Evaluated)
        for stage, seconds in evaluation.body.stages.items():
            found[stage].append(seconds)
    for ask in ledger.asks:
        if ask.purpose == "search" and ask.proposals and ask.seconds > 0:
            found["propose"].append(ask.seconds / len(ask.proposals))
    span = busy = 0.0
    for stay, work in _by_stay(ledger, done):
        found["wait"] += [max(0.0, b.leased_at - _ended(a)) for (_, a), (_, b) in pairwise(work)]
        span += _ended(work[-1][1]) - max(stay.joined, work[0][1].leased_at)
        busy += sum(_evaluating(evaluation, attempt, stay) for evaluation, attempt in work)
    return {
        "evaluations": len(done),
        "seconds": {
            stage: sum(found[stage]) / len(found[stage])
            for stage in in_order(found)
            if found[stage]
        },
        "engine_busy": min(busy / span, 1.0) if span > 0 else None,
    }


def _done(ledger: Ledger) -> list[Work]:
    """Completed evaluations of the search, with the attempt that brought the result."""
    counted = [ledger.evaluations[name] for name in ledger.completed]
    search = [e for e in counted if e.purpose == "search"] or counted
    return [
        (evaluation, attempt)
        for evaluation in search
        for attempt in evaluation.attempts
        if attempt.state is AttemptState.DONE and isinstance(evaluation.body, Evaluated)
    ]


def _by_stay(ledger: Ledger, done: list[Work]) -> Iterator[tuple[Presence, list[Work]]]:
    """Each stay of a worker with what it delivered there, in the order in which it ended.

    A master that is started anew begins new stays, so the pause before it is no worker's wait.
    """
    found = defaultdict[str, list[Work]](list)
    for evaluation, attempt in done:
        found[attempt.worker].append((evaluation, attempt))
    for stay in ledger.attendance.stays:
        left = math.inf if stay.left is None else stay.left
        work = [w for w in found[stay.worker] if stay.joined <= _ended(w[1]) <= left]
        if work:
            yield stay, sorted(work, key=lambda w: _ended(w[1]))


def _evaluating(evaluation: Evaluation, attempt: Attempt, stay: Presence) -> float:
    """Seconds of ``evaluate``, but for the share of an attempt that was before the stay."""
    assert isinstance(evaluation.body, Evaluated)
    whole = _ended(attempt) - attempt.leased_at
    share = (_ended(attempt) - max(stay.joined, attempt.leased_at)) / whole if whole > 0 else 1.0
    return share * evaluation.body.stages.get("evaluate", 0.0)


def _ended(attempt: Attempt) -> float:
    return attempt.leased_at if attempt.ended_at is None else attempt.ended_at
