"""What the master does with each message of a worker: records events, queues answers."""

from __future__ import annotations

import logging
from collections.abc import Callable

from apbmm_common.messages import (
    Accept,
    Assign,
    Beat,
    BeatAck,
    Bye,
    Cancel,
    Decline,
    Drain,
    Evaluated,
    Failed,
    FromMaster,
    FromWorker,
    Hello,
    HelloAgain,
    Measured,
    Ready,
    Refuse,
    Result,
    ResultAck,
    Unfit,
    Welcome,
)
from apbmm_common.runfile import canonical_hash

from apbmm_master.events import (
    Accepted,
    AnyEvent,
    AttemptFailed,
    DuplicateResult,
    Lost,
    ResultRecorded,
    SourcesVerified,
    WorkerJoined,
    WorkerLeft,
    WorkerQuarantined,
)
from apbmm_master.fleet import Fleet, Worker
from apbmm_master.ledger import Attempt, Evaluation, Ledger
from apbmm_master.lifecycle import AttemptState, EvaluationState

log = logging.getLogger(__name__)

SETTLED = (EvaluationState.DONE, EvaluationState.FAILED)


class Reception:
    """Handles messages one at a time.

    ``record`` applies an event to the ledger and puts it in the next commit; ``send`` queues an
    answer that leaves only after that commit.
    """

    def __init__(
        self,
        ledger: Ledger,
        fleet: Fleet,
        record: Callable[[AnyEvent], None],
        send: Callable[[bytes, FromMaster], None],
    ) -> None:
        self.ledger, self.fleet = ledger, fleet
        self._record, self._send = record, send

    def handle(self, identity: bytes, message: FromWorker, now: float) -> None:
        """Take one message in; ``now`` is the monotonic clock."""
        if isinstance(message, Hello):
            self._hello(identity, message, now)
            return
        worker = self.fleet.of(identity)
        if worker is None:
            self._send(identity, HelloAgain(run=self.ledger.run))
            return
        worker.heard = now
        match message:
            case Beat():
                worker.beat = message
                self._send(identity, BeatAck(run=self.ledger.run, epoch=self.ledger.epoch))
            case Ready():
                self._ready(worker, message)
            case Unfit():
                worker.stage, worker.unfit = "unfit", message.message
                log.warning("worker %s cannot take part: %s", worker.name, message.message)
            case Accept():
                self._accept(worker, message)
            case Decline():
                self._decline(worker, message)
            case Result():
                self._result(worker, message)
            case Drain():
                worker.draining = True
            case Bye():
                self._record(
                    WorkerLeft(worker=worker.name, boot=worker.boot, reason=message.reason)
                )
                self.fleet.leave(worker)

    # ---- joining -------------------------------------------------------------------------

    def _hello(self, identity: bytes, hello: Hello, now: float) -> None:
        joined = self.fleet.join(hello, identity, self.ledger.run, now)
        if joined is None:
            reason = f"a later process took the name {hello.worker}"
            hint = "give this one another --name"
            self._send(identity, Refuse(reason=reason, hint=hint, final=True))
            return
        worker = joined.worker
        if joined.replaced is not None:
            self._record(
                WorkerLeft(worker=worker.name, boot=joined.replaced.boot, reason="superseded")
            )
            reason = f"a later process took the name {worker.name}"
            self._send(joined.replaced.identity, Refuse(reason=reason, final=True))
        if not joined.returning:
            self._record(
                WorkerJoined(
                    worker=worker.name,
                    boot=worker.boot,
                    gpu=worker.gpu,
                    host=worker.host,
                    versions=worker.versions,
                )
            )
        self._reconcile(worker)
        assert self.ledger.spec is not None
        keep, abandon = self._sort_held(worker)
        worker.held -= set(abandon)
        self._send(
            identity,
            Welcome(
                run=self.ledger.run,
                epoch=self.ledger.epoch,
                spec=self.ledger.spec.model_dump(mode="json"),
                keep=keep,
                abandon=abandon,
            ),
        )

    def _sort_held(self, worker: Worker) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Leases the worker should keep, and those whose evaluation is settled without it."""
        wanted = {
            lease: found is not None and found[0].state not in SETTLED
            for lease in sorted(worker.held)
            for found in [self.ledger.find(lease)]
        }
        return tuple(k for k, v in wanted.items() if v), tuple(
            k for k, v in wanted.items() if not v
        )

    def _reconcile(self, worker: Worker) -> None:
        """A lease that this boot accepted but neither holds nor delivers is lost."""
        for evaluation, attempt in list(self.ledger.active_attempts()):
            mine = attempt.worker == worker.name and attempt.boot == worker.boot
            if not mine or attempt.lease in worker.delivering:
                continue
            if attempt.lease in worker.held:
                if attempt.state is AttemptState.LEASED:
                    self._record(Accepted(evaluation=evaluation.id, lease=attempt.lease))
            elif attempt.state is AttemptState.RUNNING:
                reason = f"{worker.name} no longer holds it"
                self._record(Lost(evaluation=evaluation.id, lease=attempt.lease, reason=reason))

    def _ready(self, worker: Worker, message: Ready) -> None:
        ledger = self.ledger
        if not ledger.digests:
            self._record(
                SourcesVerified(
                    worker=worker.name, layers=message.layers, digests=dict(message.digests)
                )
            )
        different = sorted(
            role for role in ledger.digests if message.digests.get(role) != ledger.digests[role]
        )
        if different or message.layers != ledger.layers:
            worker.stage = "unfit"
            worker.unfit = f"its {', '.join(different) or 'sources'} differ from the run's"
            self._send(
                worker.identity,
                Refuse(
                    run=ledger.run,
                    reason=f"{worker.unfit}: other contents than the first worker verified",
                    hint="copy the checkpoints again, or start a new run with these",
                ),
            )
            return
        worker.stage, worker.unfit = "ready", ""
        worker.versions = {**worker.versions, **message.versions}

    # ---- leases --------------------------------------------------------------------------

    def _accept(self, worker: Worker, message: Accept) -> None:
        found = self.ledger.find(message.lease)
        if found is None:
            return
        evaluation, attempt = found
        if attempt.worker != worker.name or attempt.boot != worker.boot:
            return
        if evaluation.state in SETTLED:
            self._send(worker.identity, Cancel(run=self.ledger.run, lease=message.lease))
            return
        worker.held.add(message.lease)
        if attempt.state is AttemptState.LEASED:
            self._record(Accepted(evaluation=evaluation.id, lease=message.lease))

    def _decline(self, worker: Worker, message: Decline) -> None:
        found = self.ledger.find(message.lease)
        worker.held.discard(message.lease)
        if found and found[1].active and found[1].worker == worker.name:
            reason = f"{worker.name} declined: {message.reason}"
            self._record(Lost(evaluation=found[0].id, lease=message.lease, reason=reason))

    def assign(self, worker: Worker, evaluation: Evaluation, attempt: Attempt) -> None:
        """Send (or send again) the ASSIGN of a committed lease."""
        assert self.ledger.spec is not None
        self._send(
            worker.identity,
            Assign(
                run=self.ledger.run,
                evaluation=evaluation.id,
                attempt=attempt.number,
                lease=attempt.lease,
                work="measure" if evaluation.purpose == "measure" else "evaluate",
                vector=evaluation.vector,
                config=self.ledger.spec.config_hash(self.ledger.digests),
                fresh=any(a.worker == worker.name and a.fault for a in evaluation.attempts[:-1]),
            ),
        )

    # ---- results -------------------------------------------------------------------------

    def _result(self, worker: Worker, message: Result) -> None:
        found = self.ledger.find(message.lease)
        if message.run != self.ledger.run or found is None:
            log.warning("%s sent a result of an unknown lease %s", worker.name, message.lease)
            return
        if canonical_hash(message.body.model_dump(mode="json")) != message.digest:
            log.warning("%s sent a result whose digest does not match", worker.name)
            return
        evaluation, attempt = found
        fault = self._unusable(evaluation, message)
        if fault is not None:
            self._failed(worker, evaluation, attempt, fault)
        elif evaluation.state in SETTLED:
            self._late(evaluation, attempt, message)
        elif isinstance(message.body, Evaluated | Measured):
            worker.failures_in_row, worker.last_failure = 0, ""
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
        worker.held.discard(message.lease)
        worker.delivering.discard(message.lease)
        self._send(worker.identity, ResultAck(run=self.ledger.run, lease=message.lease))

    def _unusable(self, evaluation: Evaluation, message: Result) -> Failed | None:
        """The failure that a result reports, or that its contents amount to."""
        assert self.ledger.spec is not None
        body = message.body
        if isinstance(body, Failed):
            return body
        expected = "measured" if evaluation.purpose == "measure" else "evaluated"
        text = ""
        if body.kind != expected:
            text = f"a {body.kind} body for a job that is to be {expected}"
        elif isinstance(body, Measured) and len(body.parameter) != self.ledger.layers:
            text = f"{len(body.parameter)} layers measured, the run has {self.ledger.layers}"
        elif isinstance(body, Evaluated):
            names = {benchmark.name for benchmark in self.ledger.spec.benchmarks}
            if set(body.benchmarks) != names:
                text = f"benchmarks {sorted(body.benchmarks)} instead of {sorted(names)}"
        return Failed(fault="infrastructure", message=text) if text else None

    def _late(self, evaluation: Evaluation, attempt: Attempt, message: Result) -> None:
        """A result for a settled evaluation: the recorded one sent again, or a duplicate."""
        if attempt.state is AttemptState.DONE or attempt.lease in self.ledger.duplicates:
            return
        body = message.body
        metrics = (
            {
                name: {"accuracy": result.accuracy, "tokens": result.tokens}
                for name, result in body.benchmarks.items()
            }
            if isinstance(body, Evaluated)
            else {}
        )
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

    def _failed(
        self, worker: Worker, evaluation: Evaluation, attempt: Attempt, failure: Failed
    ) -> None:
        if not attempt.active:
            return
        self._record(
            AttemptFailed(
                evaluation=evaluation.id,
                attempt=attempt.number,
                lease=attempt.lease,
                worker=worker.name,
                fault=failure.fault,
                message=failure.message,
                hint=failure.hint,
            )
        )
        if self.fleet.failed(worker, evaluation.id, vector=failure.fault == "vector"):
            worker.quarantined = failure.message or "failed twice in a row"
            self._record(
                WorkerQuarantined(worker=worker.name, boot=worker.boot, reason=worker.quarantined)
            )
