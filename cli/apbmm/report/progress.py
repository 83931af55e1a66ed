"""How a run went on: its front after each evaluation, and what each worker did when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from apbmm_master.journal.evaluations import Attempt
from apbmm_master.journal.events import Purpose
from apbmm_master.journal.lifecycle import AttemptState
from apbmm_master.journal.run_state import RunState
from apbmm_master.journal.scores import ScoreHistory, overlap, worker_loads

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Step:
    """The run after one completed evaluation of its budget.

    ``completed`` counts the evaluations up to this one, ``hours`` the hours that GPUs were
    connected until then (see `gpu_hours`). ``front``: number of evaluations on the front.
    """

    evaluation: str
    completed: int
    hours: float
    hypervolume: float
    front: int


def steps(run_state: RunState) -> list[Step]:
    """One step for each completed evaluation, in their order; empty without both references."""
    history = ScoreHistory()
    history.update(run_state)
    return [
        Step(
            evaluation=scored.evaluation.id,
            completed=number,
            hours=gpu_hours(run_state, scored.evaluation.done_at),
            hypervolume=scored.hypervolume,
            front=scored.front,
        )
        for number, scored in enumerate(history.history(), 1)
    ]


def gpu_hours(run_state: RunState, until: float | None = None) -> float:
    """Hours that GPUs were connected before ``until`` (Unix seconds), by default in all.

    A worker counts once for each of its GPUs; one without a GPU counts once. The time in which
    workers waited is included, the time in which no master ran is not.
    """
    end = run_state.time if until is None else until
    seconds = sum(
        gpus(stay.gpu) * overlap(stay.joined, end if stay.left is None else stay.left, 0.0, end)
        for stay in run_state.sessions.stays
    )
    return seconds / SECONDS_PER_HOUR


def gpus(named: str) -> int:
    """How many GPUs a worker holds that was started with ``--gpu named``."""
    return len([card for card in named.split(",") if card.strip()]) or 1


def hours_name(run_state: RunState) -> str:
    """``GPU-hours``, or ``worker-hours`` where a worker had no GPU."""
    real = all(stay.gpu[:1].isdigit() for stay in run_state.sessions.stays)
    return "GPU-hours" if real and run_state.sessions.stays else "worker-hours"


SpanKind = Literal["measure", "reference", "initial", "search", "lost", "connected"]


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


def timeline(run_state: RunState) -> Timeline:
    """Who did what when, as the journal tells it; what is in progress ends with its last event."""
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


def _attempts(run_state: RunState, begin: float) -> Iterator[Span]:
    for evaluation in run_state.evaluations.values():
        for attempt in evaluation.attempts:
            yield Span(
                attempt.worker,
                _kind(attempt, evaluation.purpose),
                attempt.leased_at - begin,
                _or(attempt.ended_at, run_state.time) - begin,
                evaluation.id,
                attempt.message,
            )


def _kind(attempt: Attempt, purpose: Purpose) -> SpanKind:
    return purpose if attempt.active or attempt.state is AttemptState.DONE else "lost"


def _or(moment: float | None, otherwise: float) -> float:
    return otherwise if moment is None else moment
