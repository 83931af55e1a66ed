"""Results as they come in: recorded once, acknowledged always, and judged before they count."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.protocol.messages import (
    Cancel,
    Evaluated,
    Failed,
    FromMaster,
    Measured,
    Result,
    ResultAck,
)
from apbmm_master.journal.events import (
    AnyEvent,
    AttemptFailed,
    DuplicateResult,
    ResultRecorded,
    WorkerQuarantined,
)
from apbmm_master.journal.lifecycle import SETTLED, AttemptState
from apbmm_master.journal.run_state import Attempt, Evaluation, RunState
from apbmm_master.journal.scores import missing_metrics
from apbmm_master.scheduling.fleet import Fleet, Worker

log = logging.getLogger(__name__)


class Deliveries:
    """Takes RESULT messages; ``record`` and ``send`` as in `handlers.MessageHandlers`.

    The first valid result of an evaluation wins, whichever attempt it came from; a rival attempt
    still in progress is cancelled, and what comes later is logged as a duplicate.
    """

    def __init__(
        self,
        run_state: RunState,
        fleet: Fleet,
        record: Callable[[AnyEvent], None],
        send: Callable[[bytes, FromMaster], None],
    ) -> None:
        self._ledger, self._fleet = run_state, fleet
        self._record, self._send = record, send

    def take(self, worker: Worker, message: Result) -> None:
        """Take one result in, and acknowledge it with the commit that stores it."""
        run = self._ledger.run
        found = self._ledger.find(message.lease)
        if found is None or found[0].id != message.evaluation:
            log.warning("%s sent a result of an unknown lease %s", worker.name, message.lease)
            worker.delivering.discard(message.lease)
            self._send(worker.identity, Cancel(run=run, lease=message.lease, unknown=True))
            return
        evaluation, attempt = found
        failure = self._failure(evaluation, message)
        if failure is not None:
            self._fail(worker, evaluation, attempt, failure)
        elif evaluation.state in SETTLED:
            self._late(evaluation, attempt, message)
        else:
            self._succeed(worker, evaluation, attempt, message)
        worker.held.discard(message.lease)
        worker.delivering.discard(message.lease)
        self._send(worker.identity, ResultAck(run=run, lease=message.lease))

    def _failure(self, evaluation: Evaluation, message: Result) -> Failed | None:
        """The failure that a result reports, or that its contents amount to."""
        assert self._ledger.spec is not None
        body = message.body
        expected = "measured" if evaluation.purpose == "measure" else "evaluated"
        text = ""
        if canonical_hash(body.model_dump(mode="json")) != message.digest:
            text = "the result is damaged: its digest does not match"
        elif isinstance(body, Failed):
            return body
        elif body.kind != expected:
            text = f"a {body.kind} body for a job that is to be {expected}"
        elif isinstance(body, Measured) and len(body.parameter) != self._ledger.layers:
            text = f"{len(body.parameter)} layers measured, the run has {self._ledger.layers}"
        elif isinstance(body, Evaluated):
            names = {benchmark.name for benchmark in self._ledger.spec.benchmarks}
            if set(body.benchmarks) != names:
                text = f"benchmarks {sorted(body.benchmarks)} instead of {sorted(names)}"
            elif evaluation.purpose != "reference":  # those are judged before the search begins
                text = missing_metrics(self._ledger.spec, body)
        return Failed(fault="infrastructure", message=text[:4096]) if text else None

    def _succeed(
        self, worker: Worker, evaluation: Evaluation, attempt: Attempt, message: Result
    ) -> None:
        assert isinstance(message.body, Evaluated | Measured)
        worker.failures_in_row, worker.last_failure = 0, ""
        rival = evaluation.active_attempt
        self._record(
            ResultRecorded(
                evaluation=evaluation.id,
                attempt=attempt.number,
                lease=attempt.lease,
                worker=attempt.worker,
                seconds=message.seconds,
                digest=message.digest,
                body=message.body,
            )
        )
        if rival is not None and rival.lease != attempt.lease:
            self._cancel(rival)

    def _cancel(self, rival: Attempt) -> None:
        """Spare another worker a settled evaluation; should this be lost, its BEAT asks again."""
        worker = self._fleet.workers.get(rival.worker)
        if worker is not None and worker.boot == rival.boot:
            worker.held.discard(rival.lease)
            self._send(worker.identity, Cancel(run=self._ledger.run, lease=rival.lease))

    def _late(self, evaluation: Evaluation, attempt: Attempt, message: Result) -> None:
        """A result for a settled evaluation: the recorded one sent again, or a duplicate."""
        if attempt.state is AttemptState.DONE or attempt.lease in self._ledger.duplicates:
            return
        metrics: dict[str, Any] = {}
        if isinstance(message.body, Evaluated):
            metrics = {name: b.metrics for name, b in message.body.benchmarks.items()}
        self._record(
            DuplicateResult(
                evaluation=evaluation.id,
                attempt=attempt.number,
                lease=attempt.lease,
                worker=attempt.worker,
                digest=message.digest,
                metrics=metrics,
            )
        )

    def _fail(
        self, worker: Worker, evaluation: Evaluation, attempt: Attempt, failure: Failed
    ) -> None:
        if not attempt.active or attempt.worker != worker.name:
            return
        fault = failure.fault
        if fault == "engine" and not self._accuses(evaluation, attempt):
            fault = "infrastructure"
        self._record(
            AttemptFailed(
                evaluation=evaluation.id,
                attempt=attempt.number,
                lease=attempt.lease,
                worker=worker.name,
                fault=fault,
                message=failure.message,
                hint=failure.hint,
            )
        )
        if self._fleet.failed(worker, evaluation.id, fault):
            worker.quarantined = failure.message or "failed twice in a row"
            self._record(
                WorkerQuarantined(worker=worker.name, boot=worker.boot, reason=worker.quarantined)
            )

    def _accuses(self, evaluation: Evaluation, attempt: Attempt) -> bool:
        """Whether an engine's death is held against the vector; never against the sources."""
        accuses = self._ledger.sessions.accuses(attempt.boot, evaluation.id)
        return evaluation.counts and accuses
