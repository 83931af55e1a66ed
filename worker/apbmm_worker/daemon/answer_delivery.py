"""Answers on their way to the master, which keeps them until their evaluation has a result.

The next attempt at an evaluation fetches what is kept, and its engine is asked for the rest only.
Whatever becomes of these messages, an evaluation goes on: a lost answer is asked once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from apbmm_common.protocol.messages import (
    FULL_BYTES,
    MOST_ENTRIES,
    Answers,
    AnswersAck,
    AnswersWanted,
    Assign,
    FromWorker,
    KeptAnswer,
    KeptAnswers,
    ScoredOutcome,
)
from apbmm_common.run_file import RunSpec
from apbmm_worker.child_protocol import NewAnswers, StageProgress

log = logging.getLogger(__name__)

FETCH_ATTEMPTS = 4
"""Repetitions of ANSWERS_WANTED after which the engine is asked instead."""
SETTLE_REPEATS = 2
"""Repetitions of ANSWERS for which a failure, or a step's result, waits for its answers."""
MOST_LEASES = 4
"""Leases whose answers are held at most; those of older ones are dropped."""
POLL_SECONDS = 0.1


class AnswerQueue:
    """Answers and outcomes of one lease that the master has not acknowledged, in their order."""

    def __init__(self, run: str, lease: str) -> None:
        self.run = run
        self.lease = lease
        self.sent_at = float("-inf")
        """When the message that is on its way was sent; minus infinity for never."""
        self.is_open = True
        """Whether more may come."""
        self.hurried = False
        """Whether the next message is sent as soon as the last one is acknowledged."""
        self.acknowledged = asyncio.Event()
        """Set with every acknowledgement."""
        self._entries: deque[KeptAnswer | ScoredOutcome] = deque()
        self._first = 0
        self._message: Answers | None = None
        self.generated: dict[str, int] = {}
        """Tokens of the answers so far, those in flight included; see `Beat`."""

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, event: NewAnswers) -> None:
        """Take in what the child says."""
        self._entries.extend(event.answers)
        self._entries.extend(event.outcomes)
        self.generated = event.generated or self.generated

    def message(self, *, only_full: bool = False) -> Answers | None:
        """The next message: the same until it is acknowledged, None if nothing waits.

        ``only_full``: None also for one that leaves nothing behind, and might still grow.
        """
        if self._message is None and self._entries:
            message = self._next()
            if only_full and message.upto == self._first + len(self._entries):
                return None
            self._message = message
        return self._message

    def _next(self) -> Answers:
        answers: list[KeptAnswer] = []
        outcomes: list[ScoredOutcome] = []
        size = 0
        for entry in self._entries:
            size += _bytes(entry)
            count = len(answers) + len(outcomes)
            if count == MOST_ENTRIES or (count and size > FULL_BYTES):
                break
            if isinstance(entry, KeptAnswer):
                answers.append(entry)
            else:
                outcomes.append(entry)
        return Answers(
            run=self.run,
            lease=self.lease,
            first=self._first,
            answers=tuple(answers),
            outcomes=tuple(outcomes),
        )

    def acknowledge(self, upto: int) -> bool:
        """Forget the message that is on its way, if an acknowledgement is its own."""
        if self._message is None or self._message.upto != upto:
            return False
        for _ in range(upto - self._first):
            self._entries.popleft()
        self._first = upto
        self._message = None
        self.sent_at = float("-inf")
        self.acknowledged.set()
        return True


def _bytes(entry: KeptAnswer | ScoredOutcome) -> int:
    if isinstance(entry, KeptAnswer):
        return len(entry.packed)
    return len(entry.question.encode("utf-8", "surrogatepass"))


class Joined(Protocol):
    """The run that this worker belongs to; `membership.Membership` says it."""

    @property
    def run(self) -> str:
        """Its id; empty before the first."""

    @property
    def spec(self) -> RunSpec | None:
        """Its run file."""


class AnswerDelivery:
    """Sends the answers of this worker's leases with the beats, and fetches kept ones."""

    def __init__(self, joined: Joined, send: Callable[[FromWorker], Awaitable[None]]) -> None:
        self._joined = joined
        self._send = send
        self._queues: dict[tuple[str, str], AnswerQueue] = {}
        self._expected: tuple[AnswersWanted, asyncio.Future[KeptAnswers]] | None = None

    # ---- to the master -------------------------------------------------------------------

    def keep(self, assign: Assign) -> Callable[[NewAnswers], None]:
        """What takes in the new answers of a lease that begins."""
        used = {key: queue for key, queue in self._queues.items() if len(queue) or queue.is_open}
        self._queues = used
        while len(self._queues) >= MOST_LEASES:
            oldest = self._queues.pop(next(iter(self._queues)))
            log.warning("%d answers and scores of %s are dropped", len(oldest), oldest.lease)
        queue = AnswerQueue(assign.run, assign.lease)
        self._queues[assign.run, assign.lease] = queue
        return queue.add

    def generated(self, assign: Assign) -> dict[str, int]:
        """Tokens of the answers so far of a lease, those in flight included; see `Beat`."""
        queue = self._queues.get((assign.run, assign.lease))
        return queue.generated if queue is not None else {}

    async def turn(self) -> None:
        """Send what is due; to be called with every beat."""
        for queue in self._of_run():
            await self._send_if_due(queue)

    async def hear(self, message: AnswersAck | KeptAnswers) -> None:
        """Take in what the master says about answers."""
        if isinstance(message, AnswersAck):
            await self._acknowledged(message)
        else:
            self._received(message)

    async def _acknowledged(self, ack: AnswersAck) -> None:
        """Go on with the next message where one is full already."""
        queue = self._queues.get((ack.run, ack.lease))
        if queue is None or not queue.acknowledge(ack.upto):
            return
        if queue.message(only_full=not queue.hurried) is not None:
            await self._send_if_due(queue)

    def end(self, assign: Assign) -> None:
        """Note that no more answers of a lease come."""
        queue = self._queues.get((assign.run, assign.lease))
        if queue is not None:
            queue.is_open = False

    async def settle(self, assign: Assign) -> None:
        """Wait until the master has all answers of a lease, or for `SETTLE_REPEATS` in vain."""
        queue = self._queues.get((assign.run, assign.lease))
        spec = self._joined.spec
        if queue is None:
            return
        self.end(assign)
        if spec is None or assign.run != self._joined.run:
            return
        queue.hurried = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_REPEATS * spec.timings.resend):
                while len(queue):
                    queue.acknowledged.clear()
                    await self._send_if_due(queue)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(queue.acknowledged.wait(), POLL_SECONDS)

    async def send_all(self) -> None:
        """Send everything at once, because this process ends; no acknowledgement is awaited."""
        for queue in self._of_run():
            while (message := queue.message()) is not None:
                await self._send(message)
                queue.acknowledge(message.upto)

    def drop(self, run: str, lease: str) -> None:
        """Drop the answers of a lease: it has a result, or its run's journal does not know it."""
        self._queues.pop((run, lease), None)

    def _of_run(self) -> list[AnswerQueue]:
        run = self._joined.run
        return [queue for queue in self._queues.values() if queue.run == run]

    async def _send_if_due(self, queue: AnswerQueue) -> None:
        spec, message = self._joined.spec, queue.message()
        if spec is None or message is None:
            return
        now = time.monotonic()
        if now - queue.sent_at >= spec.timings.resend:
            queue.sent_at = now
            await self._send(message)

    # ---- from the master -----------------------------------------------------------------

    async def fetch(
        self, assign: Assign, report: Callable[[StageProgress], None]
    ) -> list[KeptAnswer]:
        """The answers that the master has kept for a lease; fewer if it does not give them all.

        It is asked for those of a further attempt in any case: answers that arrived together with
        the end of the attempt before were not counted yet when the lease was granted.
        """
        spec = self._joined.spec
        found: list[KeptAnswer] = []
        total, silence = max(assign.kept, int(assign.attempt > 1)), 0
        while spec is not None and len(found) < total and silence < FETCH_ATTEMPTS:
            report(StageProgress(stage="fetch answers", done=len(found), total=total))
            wanted = AnswersWanted(run=assign.run, lease=assign.lease, after=len(found))
            reply = asyncio.get_running_loop().create_future()
            self._expected = (wanted, reply)
            await self._send(wanted)
            try:
                message = await asyncio.wait_for(reply, spec.timings.resend)
            except TimeoutError:
                silence += 1
                continue
            silence = 0
            found += message.answers
            total = message.total if message.answers else len(found)
        self._expected = None
        if len(found) < assign.kept:
            log.warning("the master gave %d of %d kept answers", len(found), assign.kept)
        if found:
            log.info("%s goes on from %d kept answers", assign.evaluation, len(found))
        return found

    def _received(self, message: KeptAnswers) -> None:
        """Take in kept answers, if they are those that were asked for last."""
        if self._expected is None:
            return
        wanted, reply = self._expected
        asked = (wanted.run, wanted.lease, wanted.after)
        if asked == (message.run, message.lease, message.after) and not reply.done():
            reply.set_result(message)
