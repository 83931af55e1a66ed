"""The evaluation child: ``python -m apbmm_worker.child.main --fd N --parent PID``.

The daemon (process PID) starts it. It holds the engine, so that the daemon's heartbeats never wait
for the engine. Commands and events of `apbmm_worker.child_protocol` come and go over the inherited
socket N. Standard output and error are its log.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from apbmm_common.errors import ApbmmError, EvaluationError, WireError, failure_kind
from apbmm_common.process.logs import set_up_logging
from apbmm_common.protocol.messages import Evaluated, KeptAnswer, Stepped
from apbmm_common.run_file import RunSpec
from apbmm_worker.child.answer_stream import AnswerStream
from apbmm_worker.child.channel import Channel
from apbmm_worker.child.pipeline import LocalInputs, Pipeline
from apbmm_worker.child_protocol import (
    Answer,
    Command,
    CommandFailed,
    EndAnswers,
    EngineFree,
    Evaluate,
    EvaluateFolder,
    Event,
    Measure,
    NewAnswers,
    OfReport,
    Prepare,
    Prepared,
    StageProgress,
    Stop,
    UseAnswers,
)
from apbmm_worker.engine.kinds import engine_kind
from apbmm_worker.evaluation.asking_order import Step
from apbmm_worker.evaluation.cut_off import CutOffs
from apbmm_worker.message_socket import inherited_socket

_log = logging.getLogger(__name__)

T = TypeVar("T")
PROGRESS_SECONDS = 0.5


class Reporter:
    """Sends events of several threads; progress only every `PROGRESS_SECONDS`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._stage = ""
        self._sent = 0.0

    def send(self, event: Event) -> None:
        """Send one event."""
        with self._lock:
            self._channel.send(event)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Report the start of a stage, its end, and in between a step every `PROGRESS_SECONDS`."""
        with self._lock:
            now = time.monotonic()
            due = now - self._sent >= PROGRESS_SECONDS
            if due or stage != self._stage or done == total:
                self._channel.send(StageProgress(stage=stage, done=done, total=total))
                self._stage = stage
                self._sent = now


class _EvaluationEvents:
    """Sends the events of one evaluation, marked as those of a report once its engine is free."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._lock = threading.Lock()
        self._is_free = False

    def engine_is_free(self) -> None:
        """Say so."""
        with self._lock:
            self._reporter.send(EngineFree())
            self._is_free = True

    def send(self, event: NewAnswers | Evaluated | Stepped | CommandFailed) -> None:
        """Send one event."""
        with self._lock:
            self._reporter.send(OfReport(event=event) if self._is_free else event)


class Child:
    """Obeys the daemon's commands."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._pipeline: Pipeline | None = None
        self._kept: list[KeptAnswer] = []
        self.cut_offs = CutOffs()
        self._has_reported = threading.Event()
        """Whether no report is made beside the present command."""
        self._has_reported.set()

    def obey(self, command: Command) -> None:
        """Run one command and send its answer, if it has one.

        Where an evaluation goes on with its report, the answer is sent when that is made.
        """
        match command:
            case UseAnswers():
                self._kept += command.answers
            case Evaluate():
                self._evaluate(command)
            case _:
                self._reporter.send(self._outcome(command, partial(self._answer, command)))

    def _outcome(self, command: Command, work: Callable[[], T]) -> T | CommandFailed:
        """What ``work`` returns, or its failure."""
        try:
            return work()
        except ApbmmError as error:
            _log.warning("%s failed: %s", command.kind, error)
            usable = self._pipeline is None or self._pipeline.usable
            return CommandFailed(
                fault=failure_kind(error),
                message=error.message,
                hint=error.hint,
                fatal=not usable,
            )
        except Exception as error:  # noqa: BLE001 - logged, reported, and the child is replaced
            _log.exception("%s failed unexpectedly", command.kind)
            message = f"unexpected {type(error).__name__}: {error}"
            if isinstance(error, ValidationError):
                message = f"unsound result: {str(error).splitlines()[0]}"
            hint = "the worker's child.log has more"
            return CommandFailed(fault="infrastructure", message=message, hint=hint, fatal=True)

    def close(self, *, ending: bool = False) -> None:
        """Close the pipeline, if there is one; ``ending`` as in `Pipeline.close`."""
        if self._pipeline is not None:
            self._pipeline.close(ending=ending)

    def _answer(self, command: Prepare | Measure | EndAnswers | EvaluateFolder | Stop) -> Answer:
        match command:
            case Prepare():
                return self._prepare(command)
            case Measure():
                return self._prepared().measure()
            case EvaluateFolder():
                from apbmm_worker.child.folder_evaluation import evaluate_folder

                return evaluate_folder(command, self._reporter.progress)
            case Stop() | EndAnswers():
                raise AssertionError("Channel.serve takes it")

    def _evaluate(self, command: Evaluate) -> None:
        """Evaluate, and send the answer; return when the engine is free."""
        kept, self._kept = self._kept, []
        events = _EvaluationEvents(self._reporter)
        stream = AnswerStream(events.send)
        cut_off = self.cut_offs.begin(command.lease)
        step = Step(command.upto, command.enough, cut_off, command.longest_first)

        def begin() -> Future[Evaluated | Stepped]:
            return self._prepared().begin(
                command.evaluation,
                command.vector,
                Path(command.outputs),
                reference=command.reference,
                borders=command.borders,
                kept=kept,
                listener=stream,
                step=step,
                may_free=self._has_reported.is_set if command.may_free else None,
            )

        def end(begun: Future[Evaluated | Stepped]) -> None:
            answer = self._outcome(command, begun.result)
            stream.__exit__()
            try:
                events.send(answer)
            except WireError as error:
                events.send(CommandFailed(fault="infrastructure", message=error.message))

        def end_report(begun: Future[Evaluated | Stepped]) -> None:
            try:
                end(begun)
            finally:
                self._has_reported.set()

        stream.__enter__()
        begun = self._outcome(command, begin)
        if isinstance(begun, CommandFailed):
            stream.__exit__()
            events.send(begun)
        elif begun.done():
            end(begun)
        else:
            self._has_reported.clear()
            events.engine_is_free()
            begun.add_done_callback(end_report)

    def _prepare(self, command: Prepare) -> Prepared:
        start = time.monotonic()
        self.close()
        self._pipeline = None
        spec = RunSpec.model_validate(command.spec)
        self._pipeline = Pipeline(spec, LocalInputs.of(command), self._reporter.progress)
        sources = self._pipeline.sources
        return Prepared(
            digests=self._pipeline.digests,
            layers=sources.layers,
            outside=tuple(sources.outside),
            identical_layers=tuple(sources.identical_layers),
            parts=dict(sources.parts),
            versions=engine_kind(spec.engine.kind).versions(),
            seconds=time.monotonic() - start,
        )

    def _prepared(self) -> Pipeline:
        if self._pipeline is None:
            raise EvaluationError("no run has been prepared", kind="infrastructure")
        return self._pipeline


def main() -> None:
    """Entry point of the child process."""
    channel = Channel(inherited_socket(__doc__))
    faulthandler.enable()
    set_up_logging()
    child = Child(Reporter(channel))
    channel.serve(child.obey, child.cut_offs.ask)
    child.close(ending=True)
    # An orderly end of the engine's threads takes seconds, and frees only what this frees too.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
