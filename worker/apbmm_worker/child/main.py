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
from pathlib import Path

from pydantic import ValidationError

from apbmm_common.errors import ApbmmError, EvaluationError, failure_kind
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
    Evaluate,
    EvaluateFolder,
    Event,
    Measure,
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


class Child:
    """Obeys the daemon's commands."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._pipeline: Pipeline | None = None
        self._kept: list[KeptAnswer] = []
        self.cut_offs = CutOffs()

    def obey(self, command: Command) -> None:
        """Run one command and send its answer, if it has one."""
        if isinstance(command, UseAnswers):
            self._kept += command.answers
            return
        answer: Answer
        try:
            answer = self._answer(command)
        except ApbmmError as error:
            _log.warning("%s failed: %s", command.kind, error)
            usable = self._pipeline is None or self._pipeline.usable
            answer = CommandFailed(
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
            answer = CommandFailed(fault="infrastructure", message=message, hint=hint, fatal=True)
        self._reporter.send(answer)

    def close(self, *, ending: bool = False) -> None:
        """Close the pipeline, if there is one; ``ending`` as in `Pipeline.close`."""
        if self._pipeline is not None:
            self._pipeline.close(ending=ending)

    def _answer(
        self, command: Prepare | Measure | Evaluate | EndAnswers | EvaluateFolder | Stop
    ) -> Answer:
        match command:
            case Prepare():
                return self._prepare(command)
            case Measure():
                return self._prepared().measure()
            case Evaluate():
                return self._evaluate(command)
            case EvaluateFolder():
                from apbmm_worker.child.folder_evaluation import evaluate_folder

                return evaluate_folder(command, self._reporter.progress)
            case Stop() | EndAnswers():
                raise AssertionError("Channel.serve takes it")

    def _evaluate(self, command: Evaluate) -> Evaluated | Stepped:
        kept, self._kept = self._kept, []
        with AnswerStream(self._reporter.send) as stream:
            return self._prepared().evaluate(
                command.evaluation,
                command.vector,
                Path(command.outputs),
                reference=command.reference,
                borders=command.borders,
                kept=kept,
                listener=stream,
                step=Step(command.upto, command.enough, self.cut_offs.begin(command.lease)),
            )

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
