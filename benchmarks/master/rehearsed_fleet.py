"""REHEARSAL: many workers in one process, each the real daemon with a socket and outbox of its own.

Only the evaluation is missing: where a worker has a child with an engine, these sleep. What each
worker sees of the master is timed on the monotonic clock of this process, so its own lag counts
against the master.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zmq
import zmq.asyncio

from apbmm_common.errors import EXIT_DONE
from apbmm_common.protocol.curve_keys import NO_KEYS, worker_keys
from apbmm_common.protocol.messages import (
    Assign,
    Evaluated,
    Failed,
    FromMaster,
    FromWorker,
    Hello,
    Measured,
    Ready,
    Result,
    ResultAck,
    Stepped,
    Welcome,
)
from apbmm_common.run_file import RunSpec
from apbmm_master.serve import allow_open_files
from apbmm_worker.child import rehearsal
from apbmm_worker.child_protocol import Prepared
from apbmm_worker.daemon.daemon import Daemon
from apbmm_worker.daemon.evaluation_job import AnswerStore, EvaluationJob
from apbmm_worker.daemon.options import Options
from apbmm_worker.evaluation.asking_order import Step

MAX_SOCKETS = 16_384
"""A worker has three: its own and those that watch it. Fixed when the first one is made."""

Duration = Callable[[Assign], float]
"""Seconds that an evaluation takes."""


@dataclass
class Times:
    """What one worker saw (monotonic seconds, waits in seconds)."""

    hello: float = 0.0
    """Its first HELLO."""
    welcome: float = 0.0
    """Its first WELCOME."""
    acknowledged: list[float] = field(default_factory=list)
    """From each RESULT to its RESULT_ACK."""
    assigned: list[tuple[str, float, float]] = field(default_factory=list)
    """Evaluations with the READY or RESULT that left a worker idle, and the ASSIGN after it."""
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    """Evaluations with their begin and end."""
    _sent: dict[str, float] = field(default_factory=dict)
    _idle: float | None = None

    def say(self, message: FromWorker, now: float) -> None:
        """Note a message to the master; repetitions change nothing."""
        match message:
            case Hello():
                self.hello = self.hello or now
            case Ready() if not self._sent:
                self._idle = self._idle or now
            case Result(lease=lease) if lease not in self._sent:
                self._sent[lease] = self._idle = now

    def hear(self, message: FromMaster, now: float) -> None:
        """Note a message from the master."""
        match message:
            case Welcome():
                self.welcome = self.welcome or now
            case Assign(evaluation=evaluation) if self._idle is not None:
                self.assigned.append((evaluation, self._idle, now))
                self._idle = None
            case ResultAck(lease=lease) if self._sent.get(lease):
                self.acknowledged.append(now - self._sent[lease])
                self._sent[lease] = 0.0


class RehearsedJob(EvaluationJob):
    """Sleeps for ``duration`` instead of evaluating."""

    def __init__(self, options: Options, duration: Duration, times: Times) -> None:
        super().__init__(options)
        self._duration, self._times = duration, times
        self._spec: RunSpec | None = None

    async def prepare(self, spec: RunSpec) -> Prepared:
        """There is nothing to verify."""
        self._spec = spec
        return rehearsal.prepared(spec)

    async def work(
        self,
        assign: Assign,
        answers: AnswerStore | None = None,  # noqa: ARG002
        freed: Callable[[], None] | None = None,  # noqa: ARG002
    ) -> Evaluated | Stepped | Measured | Failed:
        """Sleep, and invent what was measured."""
        assert self._spec is not None
        began = time.monotonic()
        if assign.work == "measure":
            return rehearsal.measured(self._spec)
        seconds, outcomes = rehearsal.invented(self._spec, assign.vector, reference=False)
        body: Evaluated | Stepped = rehearsal.result_of(self._spec, outcomes, seconds)
        if assign.upto:
            questions = rehearsal.questions_of(self._spec, outcomes)
            part = rehearsal.Part.of(questions, Step(assign.upto, assign.enough), {})
            body = rehearsal.body_of(self._spec, part, seconds * part.share)
        await asyncio.sleep(self._duration(assign))
        self._times.spans.append((assign.evaluation, began, time.monotonic()))
        return body


class TimedDaemon(Daemon):
    """The daemon, with a clock at its socket."""

    def __init__(self, options: Options, job: EvaluationJob, times: Times) -> None:
        super().__init__(options, job)
        self._times = times

    async def _send(self, message: FromWorker) -> None:
        self._times.say(message, time.monotonic())
        await super()._send(message)

    async def _handle(self, message: FromMaster) -> None:
        self._times.hear(message, time.monotonic())
        await super()._handle(message)


def worker_name(number: int) -> str:
    """The name of one worker of a fleet, to which its key is bound."""
    return f"w{number:04d}"


@dataclass(frozen=True)
class Fleet:
    """Workers to be; ``state`` is a folder for their outboxes, in memory lest they share a disk.

    ``keys``: the folder of their keys, if the master demands any.
    """

    address: str
    count: int
    state: Path
    duration: Duration
    keys: Path | None = None

    def options(self, number: int) -> Options:
        """Settings of one worker."""
        name = worker_name(number)
        folder = self.state / name
        keys = worker_keys(str(self.keys) if self.keys else NO_KEYS, name)
        return Options(name, "rehearsal", self.address, folder, folder, keys=keys)

    async def serve(self, until: Awaitable[object]) -> list[Times]:
        """Run every worker until ``until`` is over; what each of them saw."""
        allow_open_files()
        zmq.asyncio.Context.instance().set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        every = [Times() for _ in range(self.count)]
        daemons = [self._daemon(number, times) for number, times in enumerate(every)]

        async def end() -> None:
            await until
            for daemon in daemons:
                daemon.shutdown.exit_code = EXIT_DONE

        async with asyncio.TaskGroup() as group:
            for daemon in daemons:
                group.create_task(daemon.run())
            group.create_task(end())
        return every

    def _daemon(self, number: int, times: Times) -> Daemon:
        options = self.options(number)
        return TimedDaemon(options, RehearsedJob(options, self.duration, times), times)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of ``values`` that at least ``share`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-int(share * 1e6) * len(ordered) // 10**6) - 1))]
