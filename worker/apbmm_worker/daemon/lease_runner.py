"""The work that a worker holds: a lease from its ASSIGN until its result is stored.

It is one at a time, but for the report of one while the engine has the next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

from apbmm_common.errors import EvaluationError
from apbmm_common.process.logs import identify
from apbmm_common.protocol.messages import (
    Accept,
    Assign,
    Cancel,
    Decline,
    Enough,
    Failed,
    FromWorker,
    Stepped,
)
from apbmm_worker.daemon.answer_delivery import AnswerDelivery
from apbmm_worker.daemon.child_process import ReportLostError
from apbmm_worker.daemon.evaluation_job import EvaluationJob
from apbmm_worker.daemon.membership import Membership
from apbmm_worker.daemon.outbox import Outbox
from apbmm_worker.daemon.results import make_result

log = logging.getLogger(__name__)

REMEMBERED_LEASES = 1000


class LeaseRunner:
    """Takes leases and works on them; while ``leaving`` it takes no more.

    ``held`` is the lease that the engine works on, ``reporting`` one whose answers were all in
    ``worked`` seconds after its beginning. ``engine_is_free`` is called when there is such a one,
    ``report_lost`` when its report is lost: it is not held any more then. Finished leases are
    remembered, so that a late repetition of an ASSIGN is not worked on again.
    """

    def __init__(
        self,
        job: EvaluationJob,
        outbox: Outbox,
        membership: Membership,
        answers: AnswerDelivery,
        send: Callable[[FromWorker], Awaitable[None]],
        engine_is_free: Callable[[], None] = lambda: None,
        report_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.held: Assign | None = None
        self.reporting: Assign | None = None
        self.worked = 0.0
        self.leaving = False
        self.task: asyncio.Task[None] | None = None
        self.report_task: asyncio.Task[None] | None = None
        self._engine_is_free = engine_is_free
        self._report_lost = report_lost
        self._job = job
        self._outbox = outbox
        self._membership = membership
        self._answers = answers
        self._send = send
        self._sent_at: dict[str, float] = {}
        self._finished: deque[tuple[str, str]] = deque(maxlen=REMEMBERED_LEASES)

    @property
    def busy(self) -> bool:
        """Whether a lease is held."""
        return bool(self.works)

    @property
    def works(self) -> list[Assign]:
        """All leases that are held."""
        return [work for work in (self.held, self.reporting) if work is not None]

    async def take(self, assign: Assign) -> None:
        """Answer an ASSIGN, and begin unless it is a repetition."""
        lease = (assign.run, assign.lease)
        waiting = {(result.run, result.lease) for result in self._outbox.everything()}
        if lease in waiting:  # the result is due again
            self._sent_at.pop(assign.lease, None)
            return
        is_held = self._is_held(assign)
        reason = "" if is_held else self._objection(assign)
        if reason:
            await self._send(Decline(run=assign.run, lease=assign.lease, reason=reason))
            return
        await self._send(Accept(run=assign.run, lease=assign.lease))
        if not is_held:
            self.held = assign
            identify(evaluation=assign.evaluation)
            self.task = asyncio.create_task(self._work(assign))

    def _objection(self, assign: Assign) -> str:
        """Why an assignment whose lease is not held cannot be taken; empty if it can."""
        if self.held is not None:
            return f"it holds {self.held.lease} of {self.held.run}"
        if (assign.run, assign.lease) in self._finished:
            # The ASSIGN is late, and the master ignores the answer; or the master has forgotten
            # that it acknowledged the result.
            return "it is done with that lease"
        ready = self._membership.ready
        spec = self._membership.spec
        if self.leaving:
            return "it is leaving"
        if ready is None or spec is None or assign.run != self._membership.run:
            return "it is not prepared for this run"
        if assign.config != spec.config_hash(ready.digests):
            return "its sources or settings are not those of the run"
        return ""

    def _is_held(self, assign: Assign) -> bool:
        return any((w.run, w.lease) == (assign.run, assign.lease) for w in self.works)

    def _free_engine(self, worked: float) -> None:
        self.reporting, self.report_task, self.worked = self.held, self.task, worked
        self.held = self.task = None
        identify(evaluation="")
        self._engine_is_free()

    async def _work(self, assign: Assign) -> None:
        began = time.monotonic()

        def freed() -> None:
            self._free_engine(time.monotonic() - began)

        try:
            body = await self._job.work(assign, self._answers, freed)
        except ReportLostError:
            log.warning("the report of %s is lost, and is made anew", assign.evaluation)
            self._answers.drop(assign.run, assign.lease)
            self._let_go(assign)
            self._report_lost()
            return
        if isinstance(body, Failed) and body.fault == "run_file":
            self._membership.doubt()
        fault = body.fault if isinstance(body, Failed) else ""
        if isinstance(body, Stepped) or fault in ("engine", "infrastructure"):
            # The next attempt may begin as soon as the master knows of this one's end.
            await self._answers.settle(assign)
        else:
            self._answers.drop(assign.run, assign.lease)
        result = make_result(assign, body, time.monotonic() - began)
        try:
            await asyncio.to_thread(self._outbox.put, result)
        except EvaluationError as error:
            log.error("%s", error)
        self._let_go(assign)
        if assign.run == self._membership.run:
            self._sent_at[result.lease] = time.monotonic()
            await self._send(result)

    def _let_go(self, assign: Assign) -> None:
        if self.reporting is assign:
            self.reporting = None
        elif self.held is assign:
            self.held = None
            identify(evaluation="")
        self._finished.append((assign.run, assign.lease))

    async def cancel(self, message: Cancel | Enough) -> None:
        """Obey a CANCEL: of a lease that the run's journal does not know, or that is not wanted.

        Or an ENOUGH: of a lease that is to end with what is answered. One that is not held any more
        has a result on its way.
        """
        if isinstance(message, Enough):
            held = self.held
            if held is not None and (held.run, held.lease) == (message.run, message.lease):
                log.info("what %s has answered is enough", held.evaluation)
                self._job.end_answers(held.lease)
            return
        if message.unknown:
            self._outbox.set_aside(message.run, message.lease)
            self._answers.drop(message.run, message.lease)
        await self.drop(message.run, message.lease)

    async def drop(self, run: str, lease: str) -> None:
        """Stop working on a lease, if it is held."""
        found = [work for work in self.works if (work.run, work.lease) == (run, lease)]
        for work in found:
            log.info("%s is not wanted any more", lease)
            task = self.report_task if work is self.reporting else self.task
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            self._answers.end(work)
            if work is self.held:
                await self._job.abort()
            self._let_go(work)

    def delivered(self, run: str, lease: str) -> None:
        """The master has committed a result, of this process or an earlier one of this worker."""
        self._outbox.drop(run, lease)
        if (run, lease) not in self._finished:
            self._finished.append((run, lease))

    def send_all_again(self) -> None:
        """Have every unacknowledged result sent at the next `resend`."""
        self._sent_at.clear()

    async def resend(self) -> None:
        """Send unacknowledged results of this run again, at intervals."""
        spec = self._membership.spec
        if spec is None:
            return
        now = time.monotonic()
        for result in self._outbox.of_run(self._membership.run):
            if now - self._sent_at.get(result.lease, 0.0) >= spec.timings.resend:
                self._sent_at[result.lease] = now
                await self._send(result)
