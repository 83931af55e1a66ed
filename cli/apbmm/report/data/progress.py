"""How a run went on: its front after each evaluation, and what each worker did when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from apbmm.results.run_results import RunResults
from apbmm.results.words import cost_unit
from apbmm_master.journal.assessment.scores import worker_loads
from apbmm_master.journal.costs.cost import attempt_gpu_seconds
from apbmm_master.journal.events import Purpose
from apbmm_master.journal.lifecycle import DELIVERED
from apbmm_master.journal.state.evaluations import Attempt
from apbmm_master.journal.state.run_state import RunState

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Step:
    """The run after one completed evaluation of its budget.

    ``completed`` counts the evaluations up to this one, ``hours`` the GPU-hours of all attempts
    until then (see `gpu_hours`). ``front``: number of evaluations on the front.
    """

    evaluation: str
    completed: int
    hours: float
    hypervolume: float
    front: int


def steps(results: RunResults) -> list[Step]:
    """One step for each completed evaluation, in their order; empty without objectives."""
    done = [each for each in results.completed if each.hypervolume is not None]
    hours = gpu_hours(results, [each.done_at or 0.0 for each in done])
    return [
        Step(each.id, number, spent, each.hypervolume or 0.0, each.front_size or 0)
        for number, (each, spent) in enumerate(zip(done, hours, strict=True), 1)
    ]


def changes(found: Sequence[Step]) -> list[Step]:
    """The steps at which the front changed, the first and the last: the same curve in steps."""
    known = [(step.hypervolume, step.front) for step in found]
    last = len(found) - 1
    return [
        step
        for number, step in enumerate(found)
        if number in (0, last) or known[number] != known[number - 1]
    ]


def gpu_hours(results: RunResults, moments: Sequence[float]) -> list[float]:
    """GPU-hours of all attempts before each of ``moments`` (Unix seconds).

    As `EvaluationResult` counts them: references and the measurement of the layers are included,
    and so is work that was lost.
    """
    changes: dict[float, float] = defaultdict(float)
    for evaluation in results.run_state.evaluations.values():
        for attempt in evaluation.attempts:
            end = _or(attempt.engine_until, results.last_at)
            if end > attempt.leased_at:
                cost = attempt_gpu_seconds(results.run_state, attempt, results.last_at)
                rate = cost / (end - attempt.leased_at)
                changes[attempt.leased_at] += rate
                changes[end] -= rate
    if not changes:
        return [0.0] * len(moments)
    times = np.array(sorted(changes))
    at_work = np.cumsum([changes[when] for when in times])[:-1]
    spent = np.concatenate([[0.0], np.cumsum(at_work * np.diff(times))])
    return [float(s) / SECONDS_PER_HOUR for s in np.interp(moments, times, spent)]


def hours_name(results: RunResults) -> str:
    """``GPU-hours``, or ``worker-hours`` where a worker had no GPU."""
    return cost_unit(results.device, "hours")


SpanKind = Purpose | Literal["lost", "connected"]


@dataclass(frozen=True, slots=True)
class Span:
    """What a worker did from ``begin`` to ``end``, in seconds since the first worker joined.

    ``kind`` is the purpose of an evaluation that delivered or is in progress, ``lost`` for an
    attempt without a result, ``connected`` for a session. ``note`` says why an attempt was lost.
    """

    worker: str
    kind: SpanKind
    begin: float
    end: float
    evaluation: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Spans of all workers, and the load rate of each within the search (None: it had no time)."""

    spans: tuple[Span, ...]
    loads: dict[str, float | None]

    @property
    def seconds(self) -> float:
        """The end of the last span."""
        return max((span.end for span in self.spans), default=0.0)


def timeline(results: RunResults) -> Timeline:
    """Who did what when, as the journal tells it; what is in progress ends with its last event."""
    run_state = results.run_state
    stays = run_state.sessions.stays
    begin = min((stay.joined for stay in stays), default=0.0)
    sessions = (
        Span(s.worker, "connected", s.joined - begin, _or(s.left, run_state.time) - begin)
        for s in stays
    )
    loads = worker_loads(run_state, run_state.time)
    return Timeline(
        spans=(*sessions, *_attempts(run_state, begin)),
        loads={
            worker: load.busy / load.present if load.present > 0 else None
            for worker, load in loads.items()
        },
    )


def last_attempts(found: Timeline, most: int) -> Timeline:
    """The last ``most`` attempts of a timeline, and what the workers did meanwhile."""
    attempts = sorted(span.begin for span in found.spans if span.kind != "connected")
    if len(attempts) <= most:
        return found
    begin = attempts[-most]
    spans = (
        replace(span, begin=max(span.begin, begin)) for span in found.spans if span.end > begin
    )
    return Timeline(tuple(spans), found.loads)


def _attempts(run_state: RunState, begin: float) -> Iterator[Span]:
    for evaluation in run_state.evaluations.values():
        for attempt in evaluation.attempts:
            yield Span(
                attempt.worker,
                _kind(attempt, evaluation.purpose),
                attempt.leased_at - begin,
                _or(attempt.engine_until, run_state.time) - begin,
                evaluation.id,
                attempt.message,
            )


def _kind(attempt: Attempt, purpose: Purpose) -> SpanKind:
    return purpose if attempt.active or attempt.state in DELIVERED else "lost"


def _or(moment: float | None, otherwise: float) -> float:
    return otherwise if moment is None else moment
