"""Where the seconds of evaluations go: stage by stage, and how busy the engines are with it.

Stages come from the workers with each result (``merge``, ``load``, ``evaluate``, ``report``, and
those of an engine's start), ``propose`` from the journal, and ``wait`` is the time from one result
of a worker to its next lease, in which the proposal is made.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from apbmm_common.protocol.stages import in_order
from apbmm_master.journal.evaluations import Attempt, Evaluation
from apbmm_master.journal.findings import stages_of
from apbmm_master.journal.lifecycle import AttemptState, EvaluationState
from apbmm_master.journal.run_state import RunState
from apbmm_master.journal.worker_sessions import WorkerSession


@dataclass(slots=True)
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, seconds: float) -> None:
        self.total += seconds
        self.count += 1


@dataclass(slots=True)
class _Spell:
    """A stay of a worker, from when it had something to do there and to when it delivered last."""

    stay: WorkerSession
    begin: float = math.inf
    end: float = -math.inf

    def covers(self, attempt: Attempt) -> bool:
        """Whether it ended during the stay."""
        left = math.inf if self.stay.left is None else self.stay.left
        return self.stay.joined <= _ended(attempt) <= left

    @property
    def span(self) -> float:
        """Seconds; 0 where nothing was delivered."""
        return max(0.0, self.end - self.begin)


def stage_summary(run_state: RunState) -> dict[str, Any]:
    """Mean seconds of each stage, and the share of the workers' time that engines computed.

    Over the search (before it has begun, over all that counts): ``seconds`` by stage, in the order
    in which they come, over those evaluations that have it; ``evaluations``, their number;
    ``engine_busy``, seconds of ``evaluate`` over those from each worker's first lease to its last
    result while the same master lived, None when nothing is complete.
    """
    means = defaultdict[str, _Mean](_Mean)
    for ask in run_state.asks:
        if ask.purpose == "search" and ask.evaluations and ask.seconds > 0:
            means["propose"].add(ask.seconds / len(ask.evaluations))
    spells = defaultdict[str, list[_Spell]](list)
    for stay in run_state.sessions.stays:
        spells[stay.worker].append(_Spell(stay))
    number, busy = 0, 0.0
    for evaluation, attempt in _done(run_state):
        stages = stages_of(evaluation.found)
        number += 1
        for stage, seconds in stages.items():
            means[stage].add(seconds)
        for spell in spells[attempt.worker]:
            if spell.covers(attempt):
                busy += _evaluating(stages, attempt, spell.stay)
                _extend(spell, attempt, means["wait"])
    span = sum(spell.span for of_worker in spells.values() for spell in of_worker)
    return {
        "evaluations": number,
        "seconds": {
            stage: means[stage].total / means[stage].count
            for stage in in_order(means)
            if means[stage].count
        },
        "engine_busy": min(busy / span, 1.0) if span > 0 else None,
    }


def _done(run_state: RunState) -> Iterator[tuple[Evaluation, Attempt]]:
    """Completed evaluations of the search with the attempt that brought the result, in order.

    One at a time: all of them at once would take as much memory as the rest of the run.
    """
    searched = run_state.count(EvaluationState.DONE, purposes=("search",)) > 0
    for name in run_state.completed:
        evaluation = run_state.evaluations[name]
        if evaluation.purpose == "search" or not searched:
            for attempt in evaluation.attempts:
                if attempt.state is AttemptState.DONE:
                    yield evaluation, attempt


def _extend(spell: _Spell, attempt: Attempt, wait: _Mean) -> None:
    """Let it last until this attempt's end.

    A master that is started anew begins new stays, so the pause before it is no worker's wait.
    """
    if spell.end == -math.inf:
        spell.begin = max(spell.stay.joined, attempt.leased_at)
    else:
        wait.add(max(0.0, attempt.leased_at - spell.end))
    spell.end = _ended(attempt)


def _evaluating(stages: Mapping[str, float], attempt: Attempt, stay: WorkerSession) -> float:
    """Seconds of ``evaluate``, but for the share of an attempt that was before the stay."""
    whole = _ended(attempt) - attempt.leased_at
    share = (_ended(attempt) - max(stay.joined, attempt.leased_at)) / whole if whole > 0 else 1.0
    return share * stages.get("evaluate", 0.0)


def _ended(attempt: Attempt) -> float:
    return attempt.leased_at if attempt.ended_at is None else attempt.ended_at
