"""How the seconds of evaluations divide into stages, and what share of them the engines computed.

Workers report the stages of each result (``merge``, ``load``, ``evaluate``, ``report``, and those
of an engine's start). ``propose`` comes from the journal. ``wait`` is the time from a worker's
result to its next lease, which includes the proposal.

`apbmm status` imports this module for `stage_line` alone, so what takes long to import is imported
by the functions that use it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apbmm_master.journal.state.evaluations import Attempt, Evaluation
    from apbmm_master.journal.state.run_state import RunState
    from apbmm_master.journal.state.worker_sessions import WorkerSession

ORDER = (
    "propose",
    "wait",
    "merge",
    "start engine",
    "try hot-loading",
    "compare sources",
    "load",
    "evaluate",
    "report",
)
"""The stages in the order in which they occur."""


@dataclass(slots=True)
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, seconds: float) -> None:
        self.total += seconds
        self.count += 1


@dataclass(slots=True)
class _ActiveTime:
    """A worker session, from its first lease to its last result."""

    session: WorkerSession
    begin: float = math.inf
    end: float = -math.inf

    def covers(self, attempt: Attempt) -> bool:
        """Whether an attempt ended during the session."""
        left = math.inf if self.session.left is None else self.session.left
        return self.session.joined <= _ended(attempt) <= left

    @property
    def span(self) -> float:
        """Its length in seconds; 0 if it delivered no result."""
        return max(0.0, self.end - self.begin)


def stage_summary(run_state: RunState) -> dict[str, Any]:
    """Mean seconds of each stage, and the share of the workers' time that engines computed.

    Covers the completed evaluations of the search; before there is one, all completed evaluations.
    What answered a first step counts as an evaluation, and what answered the rest as another.

    - ``evaluations``: their number.
    - ``seconds``: by stage, in `ORDER`, the mean over those evaluations that have the stage.
    - ``engine_busy``: seconds of ``evaluate``, divided by the seconds from each worker's first
      lease to its last result under one master process; None while no evaluation is complete.
    """
    means = defaultdict[str, _Mean](_Mean)
    for ask in run_state.asks:
        if ask.purpose == "search" and ask.evaluations and ask.seconds > 0:
            means["propose"].add(ask.seconds / len(ask.evaluations))
    active_times = defaultdict[str, list[_ActiveTime]](list)
    for session in run_state.sessions.stays:
        active_times[session.worker].append(_ActiveTime(session))
    evaluations = 0
    busy = 0.0
    for stages, attempt in _delivered(run_state):
        evaluations += 1
        for stage, seconds in stages.items():
            means[stage].add(seconds)
        for active in active_times[attempt.worker]:
            if active.covers(attempt):
                busy += _evaluating(stages, attempt, active.session)
                _extend(active, attempt, means["wait"])
    span = sum(active.span for times in active_times.values() for active in times)
    return {
        "evaluations": evaluations,
        "seconds": {
            stage: means[stage].total / means[stage].count
            for stage in _in_order(means)
            if means[stage].count
        },
        "engine_busy": min(busy / span, 1.0) if span > 0 else None,
    }


def stage_line(summary: Mapping[str, Any]) -> str:
    """A `stage_summary` in one line; "" while no evaluation is complete."""
    if not summary.get("evaluations"):
        return ""
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in summary["seconds"].items())
    line = f"mean seconds: {stages}"
    if summary["engine_busy"] is not None:
        line += f"; engines busy {summary['engine_busy']:.1%}"
    return line


def _in_order(stages: Iterable[str]) -> list[str]:
    """Stages in their `ORDER`; unknown ones last."""
    known = {stage: place for place, stage in enumerate(ORDER)}
    return sorted(stages, key=lambda stage: (known.get(stage, len(ORDER)), stage))


def _delivered(run_state: RunState) -> list[tuple[Mapping[str, float], Attempt]]:
    """The stages of what was measured in the search, in order, with the attempt that did."""
    found = [
        (evaluation.purpose, stages, attempt)
        for evaluation in run_state.of_budget()
        for stages, attempt in _deliveries(evaluation)
    ]
    if any(purpose == "search" for purpose, *_ in found):
        found = [each for each in found if each[0] == "search"]
    return sorted(((stages, attempt) for _, stages, attempt in found), key=lambda p: _ended(p[1]))


def _deliveries(evaluation: Evaluation) -> Iterator[tuple[Mapping[str, float], Attempt]]:
    from apbmm_common.protocol.messages import Evaluated
    from apbmm_master.journal.lifecycle import AttemptState

    for attempt in evaluation.attempts:
        if attempt.state is AttemptState.PAUSED and evaluation.step is not None:
            yield evaluation.step.body.stages, attempt
        elif attempt.state is AttemptState.DONE and isinstance(evaluation.body, Evaluated):
            yield evaluation.body.stages, attempt


def _extend(active: _ActiveTime, attempt: Attempt, wait: _Mean) -> None:
    """Extend ``active`` to the end of ``attempt``, and count the wait before it.

    A restarted master begins new sessions, so the time without a master is not counted as a wait.
    """
    if active.end == -math.inf:
        active.begin = max(active.session.joined, attempt.leased_at)
    else:
        wait.add(max(0.0, attempt.leased_at - active.end))
    active.end = _ended(attempt)


def _evaluating(stages: Mapping[str, float], attempt: Attempt, session: WorkerSession) -> float:
    """Seconds of ``evaluate`` without the share of the attempt that precedes the session."""
    whole = _ended(attempt) - attempt.leased_at
    share = (_ended(attempt) - max(session.joined, attempt.leased_at)) / whole if whole > 0 else 1.0
    return share * stages.get("evaluate", 0.0)


def _ended(attempt: Attempt) -> float:
    """When the engine was done with an attempt."""
    return attempt.leased_at if attempt.engine_until is None else attempt.engine_until
