"""Where the seconds of evaluations go: stage by stage, and how busy the engines are with it.

Stages come from the workers with each result (``merge``, ``load``, ``evaluate``, ``report``, and
those of an engine's start), ``propose`` from the journal, and ``wait`` is the time from one result
of a worker to its next lease, in which the proposal is made.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

from apbmm_common.messages import Evaluated
from apbmm_common.stages import in_order
from apbmm_master.evaluations import Attempt, Evaluation
from apbmm_master.ledger import Ledger
from apbmm_master.lifecycle import AttemptState


def stage_summary(ledger: Ledger) -> dict[str, Any]:
    """Mean seconds of each stage, and the share of the workers' time that engines computed.

    Over the search (before it has begun, over all that counts): ``seconds`` by stage, in the order
    in which they come, over those evaluations that have it; ``evaluations``, their number;
    ``engine_busy``, seconds of ``evaluate`` over those from each worker's first lease to its last
    result, None when nothing is complete.
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
    span = 0.0
    for attempts in _by_worker(done).values():
        found["wait"] += [max(0.0, b.leased_at - _ended(a)) for a, b in pairwise(attempts)]
        span += _ended(attempts[-1]) - attempts[0].leased_at
    busy = sum(found["evaluate"])
    return {
        "evaluations": len(done),
        "seconds": {
            stage: sum(found[stage]) / len(found[stage])
            for stage in in_order(found)
            if found[stage]
        },
        "engine_busy": min(busy / span, 1.0) if span > 0 else None,
    }


def _done(ledger: Ledger) -> list[tuple[Evaluation, Attempt]]:
    """Completed evaluations of the search, with the attempt that brought the result."""
    counted = [ledger.evaluations[name] for name in ledger.completed]
    search = [e for e in counted if e.purpose == "search"] or counted
    return [
        (evaluation, attempt)
        for evaluation in search
        for attempt in evaluation.attempts
        if attempt.state is AttemptState.DONE and isinstance(evaluation.body, Evaluated)
    ]


def _by_worker(done: list[tuple[Evaluation, Attempt]]) -> dict[str, list[Attempt]]:
    """Attempts of each worker, in the order in which they ended."""
    found = defaultdict[str, list[Attempt]](list)
    for _, attempt in done:
        found[attempt.worker].append(attempt)
    for attempts in found.values():
        attempts.sort(key=_ended)
    return found


def _ended(attempt: Attempt) -> float:
    return attempt.leased_at if attempt.ended_at is None else attempt.ended_at
