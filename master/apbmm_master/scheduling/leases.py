"""Carries out what `policy` decides about leases and workers: records it, and queues ASSIGNs."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from apbmm_master.journal.events import AnyEvent, EvaluationFailed, Leased, Lost, WorkerLeft
from apbmm_master.journal.lifecycle import AttemptState
from apbmm_master.journal.run_state import RunState
from apbmm_master.scheduling.fleet import Fleet
from apbmm_master.scheduling.message_handlers import MessageHandlers
from apbmm_master.scheduling.policy import Dismiss, Fail, Give, GiveUpLease


class LeaseDispatch:
    """Leases by name and their ASSIGNs; ``now`` is the monotonic clock throughout."""

    def __init__(
        self,
        run_state: RunState,
        fleet: Fleet,
        handlers: MessageHandlers,
        record: Callable[[AnyEvent], None],
    ) -> None:
        self._ledger, self._fleet, self._handlers = run_state, fleet, handlers
        self._record = record
        self._sent_at: dict[str, float] = {}

    def carry_out(self, decision: GiveUpLease | Dismiss | Fail | Give, now: float) -> None:
        """Do what one decision says."""
        match decision:
            case GiveUpLease(evaluation, lease, reason):
                self._record(Lost(evaluation=evaluation, lease=lease, reason=reason, vanished=True))
            case Dismiss(name):
                worker = self._fleet.workers[name]
                self._record(
                    WorkerLeft(worker=name, boot=worker.boot, reason="unreachable", final=False)
                )
                self._fleet.leave(worker)
            case Fail(evaluation, message):
                self._record(EvaluationFailed(evaluation=evaluation, message=message))
            case Give(evaluation, worker=name):
                self._lease(evaluation, name, now)

    def _lease(self, evaluation: str, name: str, now: float) -> None:
        number = len(self._ledger.evaluations[evaluation].attempts) + 1
        # Where an older copy of the journal goes on, no lease may be taken for a forgotten one.
        lease = f"{evaluation}.{number}.{secrets.token_hex(4)}"
        boot = self._fleet.workers[name].boot
        self._record(
            Leased(evaluation=evaluation, attempt=number, lease=lease, worker=name, boot=boot)
        )
        self._assign(lease, now)

    def _assign(self, lease: str, now: float) -> None:
        found = self._ledger.find(lease)
        assert found is not None
        evaluation, attempt = found
        self._sent_at[lease] = now
        self._handlers.assign(self._fleet.workers[attempt.worker], evaluation, attempt)

    def resend(self, now: float) -> None:
        """Send again what was not accepted; the worker treats a repetition as the same ASSIGN."""
        assert self._ledger.spec is not None
        interval = self._ledger.spec.timings.resend
        waiting = [
            attempt
            for _, attempt in self._ledger.active_attempts()
            if attempt.state is AttemptState.LEASED
        ]
        never = -interval
        self._sent_at = {a.lease: self._sent_at.get(a.lease, never) for a in waiting}
        for attempt in waiting:
            present = self._fleet.boot_of(attempt.worker) == attempt.boot
            if present and now - self._sent_at[attempt.lease] >= interval:
                self._assign(attempt.lease, now)
