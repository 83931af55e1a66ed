"""The master's loop: take messages in, decide, commit, and only then send.

One task changes the ledger. Within a turn events are applied to the ledger and collected, the
turn's events are committed in one transaction, and its messages leave after that commit. When
the commit fails (a full disk), the messages are dropped and the ledger is read back from the
journal: nothing was promised that is not stored, and the workers send again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import zmq
import zmq.asyncio
from apbmm_common.codec import MAX_BYTES, VersionMismatchError, decode, encode
from apbmm_common.errors import JournalError, UsageError, WireError
from apbmm_common.messages import FROM_WORKER, Bye, FromMaster, Refuse
from apbmm_common.runfile import RunSpec

from apbmm_master.events import (
    AnyEvent,
    EpochStarted,
    EvaluationFailed,
    Finished,
    Leased,
    Lost,
    Record,
)
from apbmm_master.fleet import Fleet
from apbmm_master.journal import Journal
from apbmm_master.ledger import Ledger
from apbmm_master.lifecycle import AttemptState
from apbmm_master.policy import Ask, Fail, Finish, Give, GiveUpLease, Moment, decide
from apbmm_master.proposals import Proposals
from apbmm_master.reception import Reception
from apbmm_master.resume import begin_or_resume
from apbmm_master.standing import check_scaling

log = logging.getLogger(__name__)

TURN_FRAMES = 256
TICK = 0.25
"""Seconds between looks at the clock when nothing arrives."""


@dataclass
class Counters:
    """What went wrong on the wire, for status."""

    refused_frames: int = 0
    refused_versions: int = 0
    last_refusal: str = ""


@dataclass
class Outgoing:
    """Messages that leave after the turn's commit."""

    messages: list[tuple[bytes, FromMaster]] = field(default_factory=list)

    def add(self, identity: bytes, message: FromMaster) -> None:
        """Queue one message."""
        self.messages.append((identity, message))


class Master:
    """One run, from its journal to its end.

    ``watchers`` see every committed record in order. Raises `UsageError` when the address is in
    use, and what `begin_or_resume` raises.
    """

    def __init__(self, journal: Journal, spec: RunSpec, bind: str) -> None:
        self.journal = journal
        self.bind = bind
        self.fleet = Fleet()
        self.counters = Counters()
        self.trouble = ""
        self.draining = False
        self.watchers: list[Callable[[Record, Ledger], None]] = []
        self._events: list[Record] = []
        self._outgoing = Outgoing()
        self._load()
        begin_or_resume(self.ledger, spec, self.record)
        self._start_epoch()
        self.proposals = Proposals(self._nudge)
        self._wake = asyncio.Event()
        self._inbox: asyncio.Queue[list[bytes]] = asyncio.Queue(4 * TURN_FRAMES)
        self._sent_at: dict[str, float] = {}
        self._end: Finish | None = None

    def _start_epoch(self) -> None:
        epoch = self.ledger.epoch + 1
        self.record(EpochStarted(epoch=epoch, host=socket.gethostname(), pid=os.getpid()))
        self.epoch_began = time.monotonic()

    def _load(self) -> None:
        """Read the ledger from the journal; the reception speaks for it."""
        self.ledger = Ledger().replay(self.journal.records())
        self._reception = Reception(self.ledger, self.fleet, self.record, self._outgoing.add)

    def record(self, event: AnyEvent) -> None:
        """Apply an event now and commit it with the turn."""
        record = Record(self.ledger.seq + 1, time.time(), event)
        self.ledger.apply(record)
        self._events.append(record)

    def _nudge(self) -> None:
        self._wake.set()

    def drain(self) -> None:
        """Start nothing new and end when what is in progress has been delivered."""
        self.draining = True
        self._nudge()

    # ---- the loop ------------------------------------------------------------------------

    async def run(self) -> Finish | None:
        """Serve until the run is over or drained; returns how it ended, None when drained."""
        self._router = open_router(self.bind)
        reader = asyncio.create_task(self._read())
        try:
            while not self._over():
                await self._turn()
            await self._say_goodbye()
            return self._end
        finally:
            reader.cancel()
            self._router.close(linger=2000)
            self.proposals.close()

    async def _turn(self) -> None:
        await self._commit()
        await self._wait()
        while not self._inbox.empty():
            self._take(self._inbox.get_nowait())
            if len(self._events) >= TURN_FRAMES:
                break
        self._decide()
        self._resend()
        await self._commit()
        if reader_failed := self.proposals.failure:
            raise reader_failed

    async def _wait(self) -> None:
        if self._inbox.empty():
            try:
                await asyncio.wait_for(self._wake.wait(), TICK)
            except TimeoutError:
                pass
        self._wake.clear()

    async def _read(self) -> None:
        while True:
            frames = await self._router.recv_multipart()
            await self._inbox.put(frames)
            self._nudge()

    def _over(self) -> bool:
        if self._end is not None and not self._events:
            return True
        return self.draining and not any(True for _ in self.ledger.active_attempts())

    def _take(self, frames: Sequence[bytes]) -> None:
        identity, *rest = frames
        try:
            message = decode(rest, FROM_WORKER)
        except VersionMismatchError as error:
            self.counters.refused_versions += 1
            self.counters.last_refusal = str(error)
            self._outgoing.add(identity, Refuse(reason=error.message, hint=error.hint))
        except WireError as error:
            self.counters.refused_frames += 1
            self.counters.last_refusal = str(error)
            log.warning("refused a frame: %s", error)
        else:
            self._reception.handle(identity, message, time.monotonic())

    # ---- deciding ------------------------------------------------------------------------

    def moment(self) -> Moment:
        """The instant as `policy.decide` sees it."""
        return Moment(
            now=time.monotonic(),
            epoch_began=self.epoch_began,
            asking=self.proposals.busy(self.ledger),
            exhausted=self.proposals.exhausted,
            batch=self.proposals.batch,
            draining=self.draining,
        )

    def _decide(self) -> None:
        self.proposals.bootstrap(self.ledger, self.record)
        self.proposals.take_answer(self.ledger, self.record)
        check_scaling(self.ledger)
        decisions = decide(self.ledger, self.fleet, self.moment())
        for decision in decisions:
            match decision:
                case GiveUpLease(evaluation, lease, reason):
                    self.record(Lost(evaluation=evaluation, lease=lease, reason=reason))
                    self._nudge()
                case Fail(evaluation, message):
                    self.record(EvaluationFailed(evaluation=evaluation, message=message))
                    self._nudge()
                case Give(evaluation, worker):
                    self._lease(evaluation, worker)
                case Ask(count):
                    self.proposals.ask(self.ledger, count)
                case Finish(reason) as end:
                    self.record(Finished(reason=reason))
                    self._end = end

    def _lease(self, evaluation_id: str, name: str) -> None:
        evaluation, worker = self.ledger.evaluations[evaluation_id], self.fleet.workers[name]
        number = len(evaluation.attempts) + 1
        lease = f"{evaluation_id}.{number}"
        self.record(
            Leased(
                evaluation=evaluation_id,
                attempt=number,
                lease=lease,
                worker=name,
                boot=worker.boot,
            )
        )
        self._assign(lease)

    def _assign(self, lease: str) -> None:
        found = self.ledger.find(lease)
        assert found is not None
        evaluation, attempt = found
        self._sent_at[lease] = time.monotonic()
        self._reception.assign(self.fleet.workers[attempt.worker], evaluation, attempt)

    def _resend(self) -> None:
        """Send again what was not accepted; the worker treats a repetition as the same ASSIGN."""
        assert self.ledger.spec is not None
        now, interval = time.monotonic(), self.ledger.spec.timings.resend
        for _, attempt in self.ledger.active_attempts():
            due = now - self._sent_at.get(attempt.lease, 0.0) >= interval
            worker = self.fleet.workers.get(attempt.worker)
            present = worker is not None and worker.boot == attempt.boot
            if attempt.state is AttemptState.LEASED and present and due:
                self._assign(attempt.lease)

    # ---- committing and sending ----------------------------------------------------------

    async def _commit(self) -> None:
        records, messages = self._events[:], self._outgoing.messages[:]
        self._events.clear()
        self._outgoing.messages.clear()
        if records:
            try:
                await asyncio.to_thread(self.journal.append, records)
            except JournalError as error:
                await self._back_to_journal(error)
                return
            self.trouble = ""
            for record in records:
                for watcher in self.watchers:
                    watcher(record, self.ledger)
        for identity, message in messages:
            await self._send(identity, message)

    async def _back_to_journal(self, error: JournalError) -> None:
        """Forget what could not be stored, and try again a little later."""
        if not self.trouble:
            log.error("%s", error)
        self.trouble = str(error)
        self._end = None
        self._load()
        if not self.ledger.run:
            raise error
        self.proposals.forget()
        await asyncio.sleep(1.0)

    async def _send(self, identity: bytes, message: FromMaster) -> None:
        try:
            await self._router.send_multipart([identity, *encode(message)], flags=zmq.DONTWAIT)
        except zmq.ZMQError as error:
            # The peer is gone or does not read; whatever matters is sent again.
            log.info("a %s could not be sent: %s", message.type, error)

    async def _say_goodbye(self) -> None:
        if self._end is None:
            return
        for worker in self.fleet.workers.values():
            await self._send(worker.identity, Bye(run=self.ledger.run, reason=self._end.reason))


def open_router(address: str) -> zmq.asyncio.Socket:
    """The socket that workers connect to. Raises `UsageError` when it cannot be bound."""
    router = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
    router.set(zmq.ROUTER_MANDATORY, 1)
    # A worker whose connection broke comes back under its identity before the old one times out.
    router.set(zmq.ROUTER_HANDOVER, 1)
    router.set(zmq.MAXMSGSIZE, MAX_BYTES + 1024)
    router.set(zmq.SNDHWM, 1000)
    router.set(zmq.RCVHWM, 1000)
    router.set(zmq.HEARTBEAT_IVL, 5000)
    router.set(zmq.HEARTBEAT_TIMEOUT, 20000)
    try:
        router.bind(address)
    except zmq.ZMQError as error:
        router.close(linger=0)
        raise UsageError(
            f"cannot listen on {address}: {error}",
            "is another master using the port? choose another --bind",
        ) from error
    return router
