"""Carries out what `policy` decides about leases and workers.

It records the events of a decision and queues the ASSIGN of each lease. The ASSIGN of a lease that
its worker has not accepted is sent again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from apbmm_common.protocol.messages import Assign, Enough, FromMaster
from apbmm_master.journal.assessment.first_steps import Step
from apbmm_master.journal.events import (
    AnyEvent,
    Beaten,
    EvaluationFailed,
    Leased,
    Lost,
    Stopped,
    WorkerLeft,
    work_of,
)
from apbmm_master.journal.lifecycle import AttemptState
from apbmm_master.journal.state.evaluations import Attempt, Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.answer_tables import Kept
from apbmm_master.scheduling.fleet import Fleet
from apbmm_master.scheduling.policy.decisions import (
    EndAttempt,
    FailEvaluation,
    GiveUpLease,
    GrantLease,
    RemoveWorker,
    StopEvaluation,
)


class LeaseDispatch:
    """Grants and withdraws leases.

    ``record`` and ``send_after_commit`` are those of `message_handlers.MessageHandlers`. ``kept``
    says how many answers of an evaluation are kept for its next attempt. ``now`` is in seconds on
    the monotonic clock.
    """

    def __init__(
        self,
        run_state: RunState,
        fleet: Fleet,
        record: Callable[[AnyEvent], None],
        send_after_commit: Callable[[bytes, FromMaster], None],
        kept: Callable[[str], Kept],
    ) -> None:
        self._run_state = run_state
        self._fleet = fleet
        self._record = record
        self._send_after_commit = send_after_commit
        self._kept = kept
        self._sent_at: dict[str, float] = {}
        """When the ASSIGN of each lease that waits for its ACCEPT was last sent."""
        self._enough_at: dict[str, float] = {}
        """When the ENOUGH of each lease in progress that is beaten was last sent."""

    def carry_out(
        self,
        decision: GiveUpLease
        | RemoveWorker
        | FailEvaluation
        | EndAttempt
        | StopEvaluation
        | GrantLease,
        now: float,
    ) -> None:
        """Record the events of one decision."""
        match decision:
            case GiveUpLease(evaluation, lease, reason):
                kept = self._kept(evaluation).answers
                self._record(
                    Lost(
                        evaluation=evaluation,
                        lease=lease,
                        reason=reason,
                        vanished=True,
                        kept=kept,
                    )
                )
            case RemoveWorker(name):
                worker = self._fleet.workers[name]
                self._record(
                    WorkerLeft(worker=name, boot=worker.boot, reason="unreachable", final=False)
                )
                self._fleet.leave(worker)
            case FailEvaluation(evaluation, message):
                self._record(EvaluationFailed(evaluation=evaluation, message=message))
            case EndAttempt(evaluation, lease, reason):
                self._record(Beaten(evaluation=evaluation, lease=lease, reason=reason))
            case StopEvaluation(evaluation, reason):
                self._record(Stopped(evaluation=evaluation, reason=reason))
            case GrantLease(evaluation, worker=name, step=step):
                self._grant(evaluation, name, step, now)

    def _grant(self, evaluation: str, name: str, step: Step, now: float) -> None:
        assert self._run_state.spec is not None
        number = len(self._run_state.evaluations[evaluation].attempts) + 1
        # The random part keeps leases apart when an older copy of a journal is resumed: a worker
        # may still hold a lease of the same evaluation and number that the copy does not know.
        lease = f"{evaluation}.{number}.{secrets.token_hex(4)}"
        boot = self._fleet.workers[name].boot
        self._record(
            Leased(
                evaluation=evaluation,
                attempt=number,
                lease=lease,
                worker=name,
                boot=boot,
                kept=self._kept(evaluation).answers,
                upto=step.upto,
                enough=step.enough,
                longest_first=not (self._run_state.spec.steps.enabled or step.upto),
            )
        )
        found = self._run_state.find(lease)
        assert found is not None
        self._assign(*found, now)

    def resend(self, now: float) -> None:
        """Send what has had no effect within ``timings.resend`` seconds: ASSIGN, and ENOUGH.

        A worker that gets the same ASSIGN twice does the work once.
        """
        self._resend_assigns(now)
        self._resend_enough(now)

    def _resend_enough(self, now: float) -> None:
        """Send ENOUGH for each lease in progress that is beaten, the first time at once."""
        assert self._run_state.spec is not None
        interval = self._run_state.spec.timings.resend
        beaten = [attempt for _, attempt in self._run_state.active_attempts() if attempt.beaten]
        self._enough_at = {a.lease: self._enough_at.get(a.lease, -interval) for a in beaten}
        for attempt in beaten:
            present = self._fleet.boot_of(attempt.worker) == attempt.boot
            if present and now - self._enough_at[attempt.lease] >= interval:
                self._enough_at[attempt.lease] = now
                identity = self._fleet.workers[attempt.worker].identity
                enough = Enough(run=self._run_state.run, lease=attempt.lease)
                self._send_after_commit(identity, enough)

    def _resend_assigns(self, now: float) -> None:
        assert self._run_state.spec is not None
        interval = self._run_state.spec.timings.resend
        waiting = [
            (evaluation, attempt)
            for evaluation, attempt in self._run_state.active_attempts()
            if attempt.state is AttemptState.LEASED
        ]
        never = -interval
        self._sent_at = {a.lease: self._sent_at.get(a.lease, never) for _, a in waiting}
        for evaluation, attempt in waiting:
            present = self._fleet.boot_of(attempt.worker) == attempt.boot
            if present and now - self._sent_at[attempt.lease] >= interval:
                self._assign(evaluation, attempt, now)

    def _assign(self, evaluation: Evaluation, attempt: Attempt, now: float) -> None:
        """Queue the ASSIGN of a recorded lease; it is sent after the commit of the turn."""
        assert self._run_state.spec is not None
        worker = self._fleet.workers[attempt.worker]
        self._sent_at[attempt.lease] = now
        self._send_after_commit(
            worker.identity,
            Assign(
                run=self._run_state.run,
                evaluation=evaluation.id,
                attempt=attempt.number,
                lease=attempt.lease,
                work=work_of(evaluation.purpose),
                vector=evaluation.vector,
                borders=self._run_state.borders or (),
                config=self._run_state.spec.config_hash(self._run_state.digests),
                fresh=any(a.worker == worker.name and a.fault for a in evaluation.attempts[:-1]),
                kept=self._kept(evaluation.id).answers,
                upto=attempt.upto,
                enough=attempt.enough,
                longest_first=attempt.longest_first,
            ),
        )
