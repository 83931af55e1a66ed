"""The worker's loop: one connection to a master, one lease at a time.

The worker goes on evaluating when its master ends, keeps the result in its outbox, and delivers it
when a master of that run is back. It never ends because a master did.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Coroutine

from pydantic import ValidationError

from apbmm_common import __version__
from apbmm_common.errors import EXIT_USAGE, WireError
from apbmm_common.process.failpoints import reach
from apbmm_common.process.systemd import Supervisor
from apbmm_common.protocol.codec import VersionMismatchError, decode, encode
from apbmm_common.protocol.messages import (
    FROM_MASTER,
    Accept,
    AnswersAck,
    Assign,
    Beat,
    BeatAck,
    Bye,
    Cancel,
    Drain,
    Enough,
    FromMaster,
    FromWorker,
    Hello,
    HelloAgain,
    KeptAnswers,
    Refuse,
    ResultAck,
    Unfit,
    Welcome,
)
from apbmm_common.run_file import RunSpec
from apbmm_worker.daemon.answer_delivery import AnswerDelivery
from apbmm_worker.daemon.evaluation_job import MOST_TEXT, EvaluationJob
from apbmm_worker.daemon.lease_runner import LeaseRunner
from apbmm_worker.daemon.master_link import MasterLink
from apbmm_worker.daemon.membership import Membership
from apbmm_worker.daemon.options import Options
from apbmm_worker.daemon.outbox import Outbox
from apbmm_worker.daemon.results import lease_of
from apbmm_worker.daemon.shutdown import Shutdown

log = logging.getLogger(__name__)

HELLO_SECONDS = (1.0, 30.0)
"""First and longest pause between HELLOs."""
POLL_SECONDS = 0.2
BEGINS = "begin"
"""The stage before the evaluation child has told one."""


class Daemon:
    """One worker; ``job`` does the work of its leases, by default in a child process."""

    def __init__(self, options: Options, job: EvaluationJob | None = None) -> None:
        self.options = options
        self.boot = secrets.token_hex(8)
        self.outbox = Outbox(options.outbox)
        self.job = job or EvaluationJob(options)
        self.membership = Membership(self.job, lambda: self.lease_runner.busy, self._send)
        self.answers = AnswerDelivery(self.membership, self._send)
        self.lease_runner = LeaseRunner(
            self.job,
            self.outbox,
            self.membership,
            self.answers,
            self._send,
            self._tell_at_once,
            self._forget_master,
        )
        self.shutdown = Shutdown(self.lease_runner, self.outbox)
        self.supervisor = Supervisor()
        self._welcome = False
        self._without_run_since = time.monotonic()
        self._heard = 0.0
        self._hellos = 0
        self._hello_pause = HELLO_SECONDS[0]
        self._background: set[asyncio.Task[None]] = set()

    @property
    def run_id(self) -> str:
        """The run of the latest WELCOME."""
        return self.membership.run

    # ---- life ----------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until stopped; returns the exit code."""
        self._link = MasterLink(self.options.master, self.options.keys)
        loops = (self._receive, self._beat, self._greet, self._link.watch, self.outbox.watch)
        tasks = [asyncio.create_task(loop()) for loop in loops]
        try:
            while self.shutdown.exit_code is None:
                await asyncio.wait(tasks, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                works = (self.lease_runner.task, self.lease_runner.report_task)
                for task in (*tasks, *works, self.membership.task):
                    if task is not None and task.done() and not task.cancelled():
                        task.result()
                if self._welcome:
                    await self.lease_runner.resend()
                self._leave_if_left_alone()
                self.shutdown.turn(self.run_id if self._welcome else None)
                self.supervisor.turn(self._doing(), stopping=self.shutdown.asked)
            if self._welcome:
                await self.answers.send_all()
            kept = self.shutdown.kept(self.run_id)
            await self._send(Bye(run=self.run_id, reason="stopped", kept=kept))
            return self.shutdown.exit_code
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._end_tasks()
            self._link.close()

    def _doing(self) -> str:
        """One line for the service manager."""
        doing = [f"{work.evaluation}: report" for work in self.lease_runner.works]
        if self.lease_runner.held is not None:
            stage = self.job.progress.latest.stage or BEGINS
            doing[0] = f"{self.lease_runner.held.evaluation}: {stage}"
        if doing:
            return ", ".join(doing)
        if self.shutdown.asked and self.outbox.unsaved:
            return self.outbox.trouble
        return f"waits for work of {self.run_id}" if self._welcome else "waits for a master"

    async def _end_tasks(self) -> None:
        runner = self.lease_runner
        tasks = (runner.task, runner.report_task, self.membership.task)
        ending = [task for task in tasks if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await self.job.close()

    def stop(self, *, interrupted: bool) -> None:
        """First call: end after the current work. Second call: end at once."""
        self.shutdown.ask(interrupted=interrupted)
        if self.shutdown.exit_code is None:
            self._soon(self._send(Drain(run=self.run_id)))

    def _soon(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ---- talking -------------------------------------------------------------------------

    async def _send(self, message: FromWorker) -> None:
        reach("send.before", message.type)
        if isinstance(message, Accept | Beat):
            message = message.model_copy(update={"hello": self._hellos})
        await self._link.send(encode(message))
        reach("send.after", message.type)

    async def _greet(self) -> None:
        """Say HELLO until welcome, at growing intervals."""
        while True:
            if not self._welcome:
                await self._send(self._hello())
                pause = self._hello_pause * random.uniform(0.8, 1.2)  # noqa: S311 - only jitter
                self._hello_pause = min(self._hello_pause * 1.5, HELLO_SECONDS[1])
                await asyncio.sleep(pause)
            else:
                await asyncio.sleep(POLL_SECONDS)

    def _hello(self) -> Hello:
        self._hellos += 1
        return Hello(
            run=self.run_id,
            worker=self.options.name,
            boot=self.boot,
            number=self._hellos,
            gpu=self.options.gpu,
            host=socket.gethostname(),
            pid=os.getpid(),
            versions={"apbmm": __version__},
            held=tuple(lease_of(work) for work in self.lease_runner.works),
            unacknowledged=tuple(lease_of(r) for r in self.outbox.everything()[:1024]),
        )

    async def _beat(self) -> None:
        while True:
            spec = self.membership.spec
            await asyncio.sleep(spec.timings.beat if spec else 1.0)
            if not self._welcome or spec is None:
                continue
            if time.monotonic() - self._heard > spec.timings.unreachable:
                log.warning("the master has been silent for %g s", spec.timings.unreachable)
                self._forget_master()
                continue
            await self._send(self._heartbeat())
            await self.answers.turn()

    def _heartbeat(self) -> Beat:
        trouble = self.outbox.trouble[:MOST_TEXT]
        held, reporting = self.lease_runner.held, self.lease_runner.reporting
        beat = Beat(run=self.run_id, trouble=trouble)
        if reporting is not None and reporting.run == self.run_id:
            reported = {"reporting": reporting.lease, "worked": self.lease_runner.worked}
            beat = beat.model_copy(update=reported)
        if held is None and self.membership.ready is not None:
            return beat
        progress = self.job.progress
        ours = held if held is not None and held.run == self.run_id else None
        return Beat(
            run=self.run_id,
            trouble=trouble,
            reporting=beat.reporting,
            worked=beat.worked,
            lease=ours.lease if ours else "",
            generated=self.answers.generated(ours) if ours else {},
            stage=progress.latest.stage[:64] or BEGINS,
            done=progress.latest.done,
            total=progress.latest.total,
            quiet=time.monotonic() - progress.moved,
        )

    def _tell_at_once(self) -> None:
        """Say what is held before the next beat is due."""
        if self._welcome:
            self._soon(self._send(self._heartbeat()))

    def _leave_if_left_alone(self) -> None:
        """Stop where there has been no run for as long as this worker was told to wait."""
        if self._welcome or self.lease_runner.busy:
            self._without_run_since = time.monotonic()
            return
        patience = self.options.leave_after
        alone = time.monotonic() - self._without_run_since
        if patience is not None and alone >= patience and not self.shutdown.asked:
            log.info("no master has had a run for this worker for %.0f s: leaving", alone)
            self.stop(interrupted=False)

    def _forget_master(self) -> None:
        self._welcome = False
        self._hello_pause = HELLO_SECONDS[0]

    async def _receive(self) -> None:
        while True:
            frames = await self._link.receive()
            try:
                message = decode(frames, FROM_MASTER)
            except VersionMismatchError as error:
                log.error("refused by %s: %s", self.options.master, error)
                self._hello_pause = HELLO_SECONDS[1]
                continue
            except WireError as error:
                log.warning("dropped a frame: %s", error)
                continue
            self._heard = time.monotonic()
            await self._handle(message)

    async def _handle(self, message: FromMaster) -> None:
        match message:
            case Welcome():
                await self._welcomed(message)
            case Refuse():
                await self._refused(message)
            case Assign():
                await self.lease_runner.take(message)
            case Cancel() | Enough():
                await self.lease_runner.cancel(message)
            case ResultAck(lease=lease):
                log.info("%s is delivered", lease)
                self.lease_runner.delivered(message.run, lease)
            case AnswersAck() | KeptAnswers():
                await self.answers.hear(message)
            case HelloAgain():
                self._forget_master()
                await self._send(self._hello())
            case Bye() if message.run == self.run_id:
                log.info("the run is over (%s); waiting for the next", message.reason)
                self._forget_master()
                self._hello_pause = HELLO_SECONDS[1] / 10
            case BeatAck(stage="preparing"):
                await self.membership.repeat()

    # ---- joining -------------------------------------------------------------------------

    async def _welcomed(self, message: Welcome) -> None:
        try:
            spec = RunSpec.model_validate(message.spec)
        except ValidationError as error:
            fault = str(error).splitlines()[0]
            log.error("cannot read the run at %s: %s", self.options.master, fault)
            hint = "install the same version of apbmm on both hosts"
            await self._send(Unfit(run=message.run, message=fault[:MOST_TEXT], hint=hint))
            self._hello_pause = HELLO_SECONDS[1]
            return
        if not self._welcome or self.run_id != message.run:
            log.info("joined run %s at %s", message.run, self.options.master)
        for work in self.lease_runner.works:
            if work.run != message.run:
                log.info("finishing %s first", work.run)
        self._welcome = True
        self._hello_pause = HELLO_SECONDS[0]
        for lease in message.abandon:
            await self.lease_runner.drop(message.run, lease)
        self.lease_runner.send_all_again()
        await self.membership.enter(message.run, spec)
        if self.shutdown.asked:
            await self._send(Drain(run=self.run_id))

    async def _refused(self, message: Refuse) -> None:
        log.error("refused by %s: %s", self.options.master, message.reason)
        if message.hint:
            log.error("hint: %s", message.hint)
        self._hello_pause = HELLO_SECONDS[1]
        if message.final:
            await self.job.abort()
            self.shutdown.exit_code = EXIT_USAGE
        elif not message.run:
            self._forget_master()  # the worker itself was refused, not its sources for a run
            self._hello_pause = HELLO_SECONDS[1]
        elif message.run == self.run_id:
            self.membership.reconsider()
