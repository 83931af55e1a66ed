"""The master's loop: handle messages, decide, commit, and only then send.

One task changes the run state. A turn applies its events to the run state as they happen, commits
them in one transaction, and then sends its messages. When the commit fails, as on a full disk, the
messages are dropped and the run state is read again from the journal. No worker was promised
anything that is not stored, and workers repeat what is not acknowledged.

Answers of unfinished evaluations are committed after that in a transaction of their own, which may
fail without harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Mapping

import numpy as np

from apbmm_common.errors import JournalError
from apbmm_common.process.failpoints import reach
from apbmm_common.protocol.messages import Bye, FromMaster
from apbmm_common.run_file import RunSpec
from apbmm_master.journal.assessment.reference_judgement import judge_references
from apbmm_master.journal.assessment.scores import ScoreHistory
from apbmm_master.journal.costs.patience import standstill_of_hypervolume
from apbmm_master.journal.events import (
    AnyEvent,
    BenchmarkEstimates,
    EpochStarted,
    Estimated,
    Finished,
    Finishing,
    FrontToConfirm,
    Record,
)
from apbmm_master.journal.lifecycle import UNFINISHED, EvaluationState
from apbmm_master.journal.run_start.adaptive_blocks import find_borders
from apbmm_master.journal.run_start.confirmation import begin_to_confirm
from apbmm_master.journal.run_start.learning import EarlierRun, begin_to_learn
from apbmm_master.journal.run_start.resume import begin_or_resume
from apbmm_master.journal.state.master_sessions import installed_versions
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.clock import RunClock
from apbmm_master.journal.storage.store import Journal
from apbmm_master.optimiser.client import OptimiserClient
from apbmm_master.scheduling.answer_keeper import AnswerKeeper
from apbmm_master.scheduling.fleet import Fleet
from apbmm_master.scheduling.leases import LeaseDispatch
from apbmm_master.scheduling.message_handlers import MessageHandlers
from apbmm_master.scheduling.policy.decide import decide
from apbmm_master.scheduling.policy.decisions import (
    AskForVectors,
    BeginFinishing,
    Decision,
    FinishRun,
)
from apbmm_master.scheduling.policy.estimated_merges import EstimatedMerges
from apbmm_master.scheduling.policy.reachable_objectives import ReachableObjectives
from apbmm_master.scheduling.policy.situation import Situation
from apbmm_master.scheduling.policy.standstill import fault_that_ends, standstill
from apbmm_master.scheduling.token_rate import TokenRate
from apbmm_master.search.arrays import Array
from apbmm_master.wire.authentication import Authenticator
from apbmm_master.wire.refusals import NotAllowedError
from apbmm_master.wire.router import Received, Router

log = logging.getLogger(__name__)

TURN_MESSAGES = 256
"""Most messages that are handled between two commits, so that none waits long for its answer."""
TICK_SECONDS = 0.25
"""Longest time between two turns."""
NOTHING_MEASURED: Array = np.zeros((0, 2))
RETRY_SECONDS = 1.0
"""Between attempts to commit while the journal cannot be written."""


class Master:
    """Runs one search, from the state of its journal to its end.

    ``authenticator`` decides which workers may connect; by default all may. ``front`` has the
    merges of a search that this run confirms: it then measures these and the references, and
    searches nothing. ``earlier`` is a run that this one learns from. ``watchers`` are called with
    every committed record in order. Raises what `begin_or_resume`, `begin_to_confirm` and
    `begin_to_learn` raise.
    """

    def __init__(
        self,
        journal: Journal,
        spec: RunSpec,
        bind: str,
        authenticator: Authenticator | None = None,
        front: FrontToConfirm | None = None,
        earlier: EarlierRun | None = None,
    ) -> None:
        self.journal = journal
        self.authenticator = authenticator or Authenticator()
        self.fleet = Fleet()
        self.trouble = ""
        self.standstill = ""
        """Why the run waits for a person; empty while it does not."""
        self.draining = False
        self.watchers: list[Callable[[Record, RunState], None]] = []
        self.turned: Callable[[], None] = lambda: None
        """Called every turn, at least once `TICK_SECONDS` and once before `run` returns."""
        self.score_history = ScoreHistory()
        self._estimated = EstimatedMerges()
        self._reachable = ReachableObjectives()
        self._newest_estimates: Mapping[str, BenchmarkEstimates] = {}
        self._awaits_estimates = False
        self.token_rate = TokenRate()
        self._not_kept = False
        """Whether the last answers of unfinished evaluations could not be stored."""
        self._events: list[Record] = []
        self._outgoing: list[tuple[bytes, FromMaster]] = []
        self._use(self._replay())
        self.clock = RunClock(self.run_state.time)
        begin_or_resume(self.run_state, spec, self.record)
        if front is not None:
            begin_to_confirm(self.run_state, front, self.record)
        if earlier is not None:
            begin_to_learn(self.run_state, earlier, self.record)
        if self._end is None:
            epoch = self.run_state.epoch + 1
            self.record(
                EpochStarted(
                    epoch=epoch,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    security=self.authenticator.security,
                    versions=installed_versions(),
                )
            )
        self.optimiser = OptimiserClient(self._wake_up, self.journal.path.parent)
        self.router = Router(bind, self._wake_up, self.authenticator)
        self._listening = False
        self._allowed = self.authenticator.revision
        self._wake = asyncio.Event()

    def _use(self, run_state: RunState) -> None:
        """Go on from ``run_state``, with no worker connected yet."""
        self.run_state = run_state
        self.fleet.forget()
        tables = self.journal.answers
        self._keeper = AnswerKeeper(run_state, tables, self._send_later, self.token_rate)
        self._handlers = MessageHandlers(
            run_state, self.fleet, self.record, self._send_later, self._keeper
        )
        self._leases = LeaseDispatch(
            run_state, self.fleet, self.record, self._send_later, tables.of
        )
        self.listening_since = time.monotonic()

    def _replay(self) -> RunState:
        """The run as the journal has it, with the answers that its evaluations may still use."""
        run_state = RunState().replay(self.journal.records())
        with contextlib.suppress(sqlite3.Error, JournalError):
            self.journal.answers.read()
            self.journal.keep_only({e.id for e in run_state.of_state(*UNFINISHED)})
        return run_state

    def record(self, event: AnyEvent) -> None:
        """Apply an event now; the turn commits it."""
        record = Record(self.run_state.seq + 1, self.clock.now(), event)
        self.run_state.apply(record)
        self._events.append(record)

    def _send_later(self, identity: bytes, message: FromMaster) -> None:
        self._outgoing.append((identity, message))

    def _wake_up(self) -> None:
        self._wake.set()

    def drain(self) -> None:
        """Start nothing new, and end when the evaluations in progress are delivered."""
        self.draining = True
        self._wake_up()

    # ---- the loop ------------------------------------------------------------------------

    def listen(self) -> None:
        """Bind the workers' address, unless the run is over. `run` calls this if it was not called.

        Raises `UsageError` when the address is in use. Needs a running event loop.
        """
        if self._end is None and not self._listening:
            self.router.open()
            self._listening = True

    async def run(self) -> FinishRun | None:
        """Serve until the run is over or drained; returns how it ended, None when drained.

        A run that is over already ends at once. Raises what `listen` does,
        `JournalError` when not even the beginning can be stored, and the named errors of a search
        method and of `fault_that_ends`; all that was measured is then stored.
        """
        if self._end is not None:
            self.turned()
            return self._end
        self.listen()
        try:
            self.listening_since = time.monotonic()
            await self._store(self._take_events())
            judge_references(self.run_state)
            while not self._over():
                await self._turn()
            await self._send_byes()
            return self._end
        finally:
            await self.router.close()
            await self.optimiser.close()

    async def _turn(self) -> None:
        self.turned()
        await self._wait()
        self.router.check()
        self.authenticator.check()
        for _ in range(TURN_MESSAGES):
            if not self.router.has_messages:
                break
            received = await self.router.receive()
            self._remove_refused_workers()
            if received is not None:
                await self._handle(received)
        self._remove_refused_workers()
        self._decide()
        self._leases.resend(time.monotonic())
        await self._commit()
        self._warn_of_standstill()
        if (fault := fault_that_ends(self.run_state, self.fleet)) is not None:
            raise fault
        if self.optimiser.failure is not None:
            raise self.optimiser.failure

    async def _handle(self, received: Received) -> None:
        identity, now = received.identity, time.monotonic()
        try:
            self._handlers.handle(identity, received.message, now, received.public_key)
        except NotAllowedError as error:
            await self.router.refuse(identity, error)

    def _remove_refused_workers(self) -> None:
        """Remove workers whose keys were revoked, whether or not they send anything."""
        if self.authenticator.look() != self._allowed:
            self._allowed = self.authenticator.revision
            self._handlers.remove_refused(self.authenticator.still_lets_in)

    def _warn_of_standstill(self) -> None:
        """Warn once when the run cannot go on before a person intervenes."""
        reason = standstill(self.run_state, self.fleet)
        if reason and reason != self.standstill:
            log.error("%s", reason)
        self.standstill = reason

    async def _wait(self) -> None:
        if not self.router.has_messages:
            # Before Python 3.12, wait_for can lose a cancellation that comes as the event is set.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._wake.wait()
        self._wake.clear()

    @property
    def _end(self) -> FinishRun | None:
        """How the run ended; None while it goes on."""
        state = self.run_state
        if not state.finished:
            return None
        return FinishRun(state.finished, state.failed, state.by_patience)

    def _over(self) -> bool:
        if self._end is not None:
            return True
        return self.draining and not any(True for _ in self.run_state.active_attempts())

    # ---- deciding ------------------------------------------------------------------------

    def situation(self) -> Situation:
        """What `decide` needs beside run state and fleet."""
        estimated = self._estimated.update(
            self.run_state, self._newest_estimates, self.optimiser.expected
        )
        spec = self.run_state.spec
        stops = spec is not None and spec.steps.stop_beaten
        measured = self._measured() if estimated or stops else NOTHING_MEASURED
        reachable: Mapping[str, Array] = {}
        if len(measured):
            scored, generated = self.journal.answers.scored, self.fleet.generated
            reachable = self._reachable.update(self.run_state, scored, generated)
        return Situation(
            now=time.monotonic(),
            listening_since=self.listening_since,
            asking=self.optimiser.busy(self.run_state) or self._awaits_estimates,
            exhausted=self.optimiser.exhausted or bool(self.run_state.confirms),
            batch=self.optimiser.batch,
            draining=self.draining,
            ask_seconds=self.optimiser.seconds,
            stalled=self._stalled(),
            estimated=estimated,
            reachable=reachable,
            measured=measured,
        )

    def _measured(self) -> Array:
        """Objectives (n, m) of the front of the merges that are measured in full."""
        front = list(self.score_history.update(self.run_state).front.values())
        return np.array(front).reshape(len(front), NOTHING_MEASURED.shape[1])

    def _stalled(self) -> str:
        """Why patience is at an end; only once the search has begun, as references then scale."""
        assert self.run_state.spec is not None
        searched = self.run_state.count(purposes=("search",))
        if self.run_state.spec.budget.patience is None or not searched:
            return ""
        self.score_history.update(self.run_state)
        return standstill_of_hypervolume(self.run_state, self.score_history)

    def _decide(self) -> None:
        self.optimiser.propose_references(self.run_state, self.record)
        find_borders(self.run_state, self.record)
        self.optimiser.take_reply(self.run_state, self.record)
        self._take_estimates()
        for decision in decide(self.run_state, self.fleet, self.situation()):
            self._carry_out(decision)

    def _take_estimates(self) -> None:
        """Journal the estimates of merges that have paused or were stopped since the last ones.

        An ask waits for them, but only once: where merges pause all the time, the next ones may
        wait for the ask.
        """
        self._newest_estimates = self.optimiser.estimates(self.run_state)
        in_part = self.run_state.of_state(EvaluationState.PAUSED, EvaluationState.STOPPED)
        paused = [e.id for e in in_part if not e.estimate]
        newest = self._newest_estimates
        found = {name: newest[name] for name in paused if name in newest}
        if found:
            self.record(Estimated(estimates=found))
        waits = bool(paused) and self.run_state.references_done
        self._awaits_estimates = waits and not found

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case AskForVectors(count):
                self.optimiser.ask(self.run_state, count)
            case BeginFinishing(reason, by_patience):
                self.record(Finishing(reason=reason, by_patience=by_patience))
                self._wake_up()
            case FinishRun(reason, failed, by_patience):
                self.record(Finished(reason=reason, failed=failed, by_patience=by_patience))
            case _:
                self._leases.carry_out(decision, time.monotonic())
                self._wake_up()

    # ---- committing and sending ----------------------------------------------------------

    def _take_events(self) -> list[Record]:
        records, self._events = self._events, []
        return records

    async def _store(self, records: list[Record]) -> None:
        if not records:
            return
        await asyncio.to_thread(self.journal.append, records)
        self.trouble = ""
        for record in records:
            for watcher in self.watchers:
                watcher(record, self.run_state)

    async def _commit(self) -> None:
        messages, self._outgoing = self._outgoing, []
        try:
            await self._store(self._take_events())
        except JournalError as error:
            await self._back_to_journal(error)
            return
        self.optimiser.stored()
        for identity, message in messages:
            await self._post(identity, message)
        await self._keep_answers()

    async def _keep_answers(self) -> None:
        """Commit the answers of the turn and acknowledge them, unless the disk refuses."""
        batches, acks = self._keeper.due()
        try:
            if batches:
                await asyncio.to_thread(self.journal.keep, batches)
        except JournalError as error:
            if not self._not_kept:
                log.warning("%s", error)
            self._not_kept = True
            return
        if batches:
            self._not_kept = False
        for identity, ack in acks:
            await self._post(identity, ack)

    async def _post(self, identity: bytes, message: FromMaster) -> None:
        reach("send.before", message.type)
        await self.router.send(identity, message)
        reach("send.after", message.type)

    async def _back_to_journal(self, error: JournalError) -> None:
        """Go back to what is stored, and wait before the next attempt to commit."""
        if not self.trouble:
            log.error("%s", error)
        self.trouble = str(error)
        self._use(await asyncio.to_thread(self._replay))
        self.optimiser.forget()
        await asyncio.sleep(RETRY_SECONDS)

    async def _send_byes(self) -> None:
        if self._end is None:
            return
        for worker in self.fleet.workers.values():
            reason = self._end.reason[:4096]
            await self._post(worker.identity, Bye(run=self.run_state.run, reason=reason))
