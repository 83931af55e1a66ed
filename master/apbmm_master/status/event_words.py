"""Events of a run in words for people, one line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from apbmm_common.checkpoint.identical_layers import not_searched
from apbmm_common.metrics import in_words
from apbmm_common.protocol.messages import Measured
from apbmm_master.journal.events import (
    AnyEvent,
    AttemptEvent,
    AttemptFailed,
    Beaten,
    BordersFound,
    DuplicateResult,
    EpochStarted,
    EvaluationEvent,
    EvaluationFailed,
    Finished,
    Finishing,
    FrontToConfirm,
    Leased,
    Lost,
    Paused,
    Proposed,
    ResultRecorded,
    RunEvent,
    RunLearnt,
    RunStarted,
    SourcesVerified,
    SpaceEvent,
    SpecChanged,
    Stopped,
    WorkerEvent,
    WorkerJoined,
    WorkerLeft,
    WorkerQuarantined,
)

Weight = Literal["quiet", "plain", "warning", "error"]
"""How much an event matters: ``quiet`` is what happens with every evaluation."""


@dataclass(frozen=True, slots=True)
class EventWords:
    """One event in words, with the evaluation and the worker that it is about ("" without one)."""

    text: str
    weight: Weight = "plain"
    evaluation: str = ""
    worker: str = ""


def event_in_words(event: AnyEvent) -> EventWords | None:
    """What happened; None for events that tell a person nothing new."""
    if isinstance(event, RunEvent):
        return _of_run(event)
    if isinstance(event, SpaceEvent):
        return _of_space(event)
    if isinstance(event, EvaluationEvent):
        return _of_evaluations(event)
    if isinstance(event, AttemptEvent):
        return _of_attempt(event)
    return _of_worker(event)


def _of_run(event: RunEvent) -> EventWords:
    match event:
        case RunStarted():
            return EventWords(f"run {event.run} begins")
        case SpecChanged():
            return EventWords(f"the run file was changed: {', '.join(event.keys)}")
        case EpochStarted():
            return EventWords(f"master {event.epoch} serves the run on {event.host}")
        case Finishing():
            return EventWords(f"merges that have paused are completed now: {event.reason}")
        case Finished():
            weight: Weight = "error" if event.failed else "plain"
            return EventWords(f"the run is over: {event.reason}", weight)


def _of_space(event: SpaceEvent) -> EventWords:
    match event:
        case SourcesVerified():
            identical = event.identical_layers
            more = f"; {not_searched(identical)}" if identical else ""
            text = f"worker {event.worker} read the sources: {event.layers} layers{more}"
            return EventWords(text, worker=event.worker)
        case BordersFound():
            begins = ", ".join(map(str, (0, *event.borders)))
            return EventWords(f"{len(event.borders) + 1} blocks are found: they begin at {begins}")
        case FrontToConfirm():
            return EventWords(f"{len(event.vectors)} merges of {event.search} are to be confirmed")
        case RunLearnt():
            return EventWords(f"the search learns from {event.run}")


def _of_evaluations(event: EvaluationEvent) -> EventWords | None:
    match event:
        case Proposed():
            names = [proposal.evaluation for proposal in event.proposals]
            took = f" in {event.seconds:.1f} s" if event.seconds >= 0.05 else ""
            named = ", ".join(names) or "nothing"
            return EventWords(f"{named} proposed{took}", "quiet", "".join(names[:1]))
        case Stopped(evaluation=name):
            return EventWords(f"{name} does not go on: {event.reason}", evaluation=name)
        case EvaluationFailed(evaluation=name):
            return EventWords(f"{name} is given up: {event.message}", "error", name)
    return None


def _of_attempt(event: AttemptEvent) -> EventWords | None:  # noqa: PLR0911 - one for each event
    match event:
        case Leased(evaluation=name, worker=worker):
            kept = f", {event.kept} answers of earlier attempts are kept" if event.kept else ""
            again = f", attempt {event.attempt}" if event.attempt > 1 else ""
            return EventWords(f"{name} begins on {worker}{again}{kept}", "quiet", name, worker)
        case Lost(evaluation=name):
            return EventWords(f"{name} is queued again: {event.reason}", "warning", name)
        case ResultRecorded(evaluation=name, worker=worker):
            text = f"{name} is done on {worker} in {event.seconds:.1f} s: {_measured(event)}"
            return EventWords(text, "plain", name, worker)
        case Paused(evaluation=name, worker=worker):
            parts = event.body.benchmarks.values()
            answered, asked = sum(p.answered for p in parts), sum(p.answers for p in parts)
            text = f"{name} pauses on {worker}: {answered} of {asked} questions are answered"
            return EventWords(text, "quiet", name, worker)
        case Beaten(evaluation=name):
            return EventWords(f"{name} is to end: {event.reason}", "quiet", name)
        case DuplicateResult(evaluation=name, worker=worker):
            return EventWords(f"a late result of {name} does not count", "quiet", name, worker)
        case AttemptFailed(evaluation=name, worker=worker):
            hint = f" (hint: {event.hint})" if event.hint else ""
            text = f"{name} failed on {worker}: {event.message}{hint}"
            return EventWords(text, "warning", name, worker)
    return None


def _of_worker(event: WorkerEvent) -> EventWords:
    worker = event.worker
    match event:
        case WorkerJoined():
            text = f"worker {worker} joined ({event.gpu} on {event.host})"
            return EventWords(text, worker=worker)
        case WorkerLeft():
            return EventWords(f"worker {worker} left: {event.reason}", worker=worker)
        case WorkerQuarantined():
            text = f"worker {worker} is quarantined: {event.reason}"
            return EventWords(text, "error", worker=worker)


def _measured(event: ResultRecorded) -> str:
    if isinstance(event.body, Measured):
        return f"discrepancies on {event.body.prompts} prompts"
    return ", ".join(
        f"{name} {in_words(result.metrics, ('accuracy', 'tokens'))}"
        for name, result in event.body.benchmarks.items()
    )
