"""What the master does with each message of a worker, results included.

A handler records events and queues answers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.errors import FailureKind
from apbmm_common.merge_methods import LINEAR
from apbmm_common.protocol.messages import (
    Accept,
    Answers,
    AnswersWanted,
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
    Stepped,
    Unfit,
    Welcome,
)
from apbmm_master.journal.assessment.first_steps import answers_of_a_merge
from apbmm_master.journal.assessment.scores import missing_metrics
from apbmm_master.journal.events import (
    QUESTIONS,
    Accepted,
    AnswersComplete,
    AnyEvent,
    AttemptFailed,
    DuplicateResult,
    Lost,
    Paused,
    ResultRecorded,
    SourcesVerified,
    Stopped,
    WorkerJoined,
    WorkerLeft,
    WorkerQuarantined,
    outcome_count,
)
from apbmm_master.journal.lifecycle import BEGUN, DELIVERED, SETTLED, AttemptState
from apbmm_master.journal.state.evaluations import Attempt, Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.scheduling.answer_keeper import AnswerKeeper
from apbmm_master.scheduling.fleet import Fleet, Worker
from apbmm_master.wire.refusals import NotAllowedError

log = logging.getLogger(__name__)

OWN_NAME = "where both are to work, each needs a --name of its own, and a key for that name"


def _recorded(evaluation: Evaluation, attempt: Attempt, message: Result) -> ResultRecorded | Paused:
    """The event of a valid result."""
    body = message.body
    assert not isinstance(body, Failed)
    of_attempt: dict[str, Any] = {
        "evaluation": evaluation.id,
        "attempt": attempt.number,
        "lease": attempt.lease,
        "worker": attempt.worker,
        "seconds": message.seconds,
        "digest": message.digest,
    }
    if not isinstance(body, Stepped):
        return ResultRecorded(body=body, outcomes=outcome_count(body), **of_attempt)
    scores = {
        name: math.fsum(score for _, score, *_ in part.outcomes)
        for name, part in body.benchmarks.items()
    }
    return Paused(body=body, scores=scores, **of_attempt)


class MessageHandlers:
    """Handles the messages of workers, one at a time.

    ``record`` applies an event to the run state; the next commit stores it. ``send_after_commit``
    queues a message that is sent after that commit. ``keeper`` takes the answers of unfinished
    evaluations.
    """

    def __init__(
        self,
        run_state: RunState,
        fleet: Fleet,
        record: Callable[[AnyEvent], None],
        send_after_commit: Callable[[bytes, FromMaster], None],
        keeper: AnswerKeeper,
    ) -> None:
        self.run_state = run_state
        self.fleet = fleet
        self._keeper = keeper
        self._record = record
        self._send_after_commit = send_after_commit

    def handle(self, identity: bytes, message: FromWorker, now: float, key: str = "") -> None:
        """Handle one message; ``now`` is in seconds on the monotonic clock.

        ``key`` is the public key of the connection. Raises `NotAllowedError` when the worker of
        this connection joined with another key.
        """
        if isinstance(message, Hello):
            self._hello(identity, message, now, key)
            return
        worker = self.fleet.of(identity)
        if worker is None:
            self._send_after_commit(identity, HelloAgain(run=self.run_state.run))
            return
        if worker.key != key:
            raise NotAllowedError(f"the connection of worker {worker.name} is another key's")
        worker.heard = now
        if isinstance(message, Accept | Beat):
            # A HELLO with a lower number was sent earlier: its list of leases is out of date.
            worker.hello = max(worker.hello, message.hello)
        if message.run == self.run_state.run or isinstance(message, Beat | Drain | Bye):
            self._dispatch(worker, message)
        else:
            log.info("a %s of %s is of another run", message.type, worker.name)

    def _dispatch(self, worker: Worker, message: FromWorker) -> None:  # noqa: C901 - one branch each
        match message:
            case Beat():
                self._beat(worker, message)
            case Ready():
                self._ready(worker, message)
            case Unfit():
                hint = f" (hint: {message.hint})" if message.hint else ""
                worker.stage, worker.unfit = "unfit", message.message + hint
                worker.unfit_fault = message.fault
                log.warning("worker %s cannot take part: %s", worker.name, worker.unfit)
            case Accept():
                self._holds(worker, message.lease)
            case Decline():
                self._decline(worker, message)
            case Answers():
                self._keeper.take(worker.identity, message)
            case AnswersWanted():
                self._keeper.give(worker.identity, message)
            case Result():
                self._result(worker, message)
            case Drain():
                worker.draining = True
            case Bye():
                self._bye(worker, message)

    # ---- joining and leaving -------------------------------------------------------------

    def _hello(self, identity: bytes, hello: Hello, now: float, key: str) -> None:
        if hello.boot in self.run_state.sessions.gone:
            reason = f"a later process took the name {hello.worker}"
            self._send_after_commit(identity, Refuse(reason=reason, hint=OWN_NAME, final=True))
            return
        known = self.fleet.workers.get(hello.worker)
        if known is not None and known.boot == hello.boot and hello.number <= known.hello:
            # This HELLO was sent twice, or a later message overtook it: nothing in it is new.
            if hello.number == known.hello:
                known.heard = now
                self._welcome(known)
            return
        joined = self.fleet.join(hello, identity, self.run_state.run, now, key)
        if joined.replaced is not None:
            self._supersede(joined.replaced, joined.worker)
        worker = joined.worker
        worker.quarantined = self.run_state.sessions.quarantined.get((worker.name, worker.boot), "")
        if not self.run_state.sessions.is_here(worker.name, worker.boot):
            self._record(
                WorkerJoined(
                    worker=worker.name,
                    boot=worker.boot,
                    gpu=worker.gpu,
                    host=worker.host,
                    versions=worker.versions,
                )
            )
        worker.delivering = {lease for lease in worker.delivering if self._is_awaited(lease)}
        self._reconcile(worker)
        self._welcome(worker)

    def _supersede(self, old: Worker, later: Worker) -> None:
        self._record(WorkerLeft(worker=old.name, boot=old.boot, reason="superseded"))
        reason = f"a later process took the name {old.name}, on {later.host} ({later.gpu})"
        self._send_after_commit(old.identity, Refuse(reason=reason, hint=OWN_NAME, final=True))
        if (old.host, old.gpu) != (later.host, later.gpu):
            log.warning(
                "worker %s on %s (%s) is ended, for a later one on %s (%s) has its name (hint: %s)",
                *(old.name, old.host, old.gpu, later.host, later.gpu, OWN_NAME),
            )

    def remove_refused(self, lets_in: Callable[[str, str], bool]) -> None:
        """Remove every worker whose key and name ``lets_in`` refuses; its lease is lost.

        The worker is refused at its next message.
        """
        for worker in list(self.fleet.workers.values()):
            if lets_in(worker.key, worker.name):
                continue
            reason = "its key was revoked"
            for evaluation, attempt in list(self.run_state.active_attempts()):
                if (attempt.worker, attempt.boot) == (worker.name, worker.boot):
                    self._lose(evaluation, attempt, f"{worker.name}: {reason}")
            left = WorkerLeft(worker=worker.name, boot=worker.boot, reason=reason, final=False)
            self._record(left)
            self.fleet.leave(worker)
            log.warning("worker %s is shut out: %s", worker.name, reason)

    def _welcome(self, worker: Worker) -> None:
        """Send WELCOME: the run, the leases to keep, and those whose evaluation has ended."""
        assert self.run_state.spec is not None
        abandon = tuple(sorted(lease for lease in worker.held if not self._is_wanted(lease)))
        worker.held -= set(abandon)
        self._send_after_commit(
            worker.identity,
            Welcome(
                run=self.run_state.run,
                epoch=self.run_state.epoch,
                spec=self.run_state.spec.for_workers(),
                keep=tuple(sorted(worker.held)),
                abandon=abandon,
            ),
        )

    def _is_wanted(self, lease: str) -> bool:
        """Whether the work under a lease may still give a result that counts."""
        found = self.run_state.find(lease)
        return (
            found is not None and found[0].state not in SETTLED and found[1].state not in DELIVERED
        )

    def _is_awaited(self, lease: str) -> bool:
        """Whether the result of a wanted lease is still to come.

        A failure that the journal has was acknowledged, and is not sent again once the
        acknowledgement has arrived.
        """
        found = self.run_state.find(lease)
        has_failed = found is not None and found[1].state is AttemptState.FAILED
        return self._is_wanted(lease) and not has_failed

    def _reconcile(self, worker: Worker) -> None:
        """Bring the leases of a boot in line with its HELLO.

        A lease that it accepted, but neither holds nor delivers, is lost.
        """
        for evaluation, attempt in list(self.run_state.active_attempts()):
            mine = attempt.worker == worker.name and attempt.boot == worker.boot
            if not mine or attempt.lease in worker.delivering:
                continue
            if attempt.lease in worker.held:
                if attempt.state is AttemptState.LEASED:
                    self._record(Accepted(evaluation=evaluation.id, lease=attempt.lease))
            elif attempt.state in BEGUN:
                self._lose(evaluation, attempt, f"{worker.name} no longer holds it")

    def _ready(self, worker: Worker, message: Ready) -> None:
        run_state = self.run_state
        different = self._different(message)
        if (not run_state.digests and not different) or self._may_replace(different):
            self._verified(worker, message)
            different = self._different(message)
        # A worker prepares only when it holds no lease, so it has finished with other runs.
        worker.foreign = False
        if different or message.layers != run_state.layers:
            worker.stage, worker.unfit_fault = "unfit", "infrastructure"
            learns_from = run_state.learning.run
            whose = learns_from or "the run"
            worker.unfit = f"its {', '.join(different) or 'sources'} differ from {whose}'s"
            self._send_after_commit(
                worker.identity,
                Refuse(
                    run=run_state.run,
                    reason=f"{worker.unfit}: other contents than its first worker verified",
                    hint="copy the checkpoints again, or start a new run with these"
                    + (", without --learn-from" if learns_from else ""),
                ),
            )
            return
        worker.stage, worker.unfit = "ready", ""
        worker.versions = {**worker.versions, **message.versions}

    def _different(self, message: Ready) -> list[str]:
        """The names of the inputs of which a worker has others than the run."""
        known = self.run_state.digests | self.run_state.expected_digests
        return sorted(name for name in known if message.digests.get(name) != known[name])

    def _may_replace(self, different: list[str]) -> bool:
        """Whether what a worker has takes the place of what the run was begun with: see `Ready`.

        The questions of a run that ended for a fault in them may be mended before it goes on.
        """
        are_questions = all(name.startswith(QUESTIONS) for name in different)
        return bool(different) and are_questions and self.run_state.questions_may_change

    def _verified(self, worker: Worker, message: Ready) -> None:
        """Record what the first worker has read. Workers that were ready before read it again."""
        self._record(
            SourcesVerified(
                worker=worker.name,
                layers=message.layers,
                outside=message.outside,
                identical_layers=self._not_searched(message),
                parts=self._searched_parts(message),
                digests=dict(message.digests),
            )
        )
        for other in self.fleet.workers.values():
            if other is not worker and other.stage == "ready":
                self._read_again(other)

    def _read_again(self, worker: Worker) -> None:
        """Have a worker read its files once more, if it has a reason to, and say READY."""
        worker.stage = "preparing"
        self._send_after_commit(worker.identity, HelloAgain(run=self.run_state.run))

    def _not_searched(self, message: Ready) -> tuple[int, ...]:
        """The layers that leave the search space; a model-level method weighs no single layer.

        A run that learns from another one searches the same space.
        """
        spec = self.run_state.spec
        if self.run_state.learning.run:
            return self.run_state.learning.identical_layers
        linear = spec is not None and spec.merge_method == LINEAR
        return message.identical_layers if linear else ()

    def _searched_parts(self, message: Ready) -> dict[str, tuple[int, ...]]:
        """The layers in which each part is searched; those of an earlier run as `_not_searched`."""
        learning = self.run_state.learning
        return dict(learning.parts if learning.run else message.parts)

    def _bye(self, worker: Worker, message: Bye) -> None:
        """A worker leaves. Leases are lost unless it keeps their results for its next boot."""
        kept = False
        for evaluation, attempt in list(self.run_state.active_attempts()):
            if (attempt.worker, attempt.boot) != (worker.name, worker.boot):
                continue
            if attempt.lease in message.kept or attempt.lease in worker.delivering:
                kept = True
            else:
                self._lose(evaluation, attempt, f"{worker.name} left: {message.reason}")
        if kept:
            worker.draining = True
            return
        self._record(WorkerLeft(worker=worker.name, boot=worker.boot, reason=message.reason))
        self.fleet.leave(worker)

    # ---- leases --------------------------------------------------------------------------

    def _beat(self, worker: Worker, beat: Beat) -> None:
        """Note what the worker says it holds, so that a lost ACCEPT or CANCEL is made good."""
        worker.beat, worker.paused = beat, False
        worker.held.clear()
        if beat.run == self.run_state.run:
            if beat.reporting:
                self._reports(worker, beat)
            if beat.lease:
                self._holds(worker, beat.lease)
        ack = BeatAck(run=self.run_state.run, epoch=self.run_state.epoch, stage=worker.stage)
        self._send_after_commit(worker.identity, ack)

    def _holds(self, worker: Worker, lease: str) -> None:
        """Note that the worker works on a lease, or cancel it if its evaluation has ended."""
        found = self.run_state.find(lease)
        if found is None or not self._is_wanted(lease):
            self._send_after_commit(worker.identity, Cancel(run=self.run_state.run, lease=lease))
            return
        evaluation, attempt = found
        if (attempt.worker, attempt.boot) != (worker.name, worker.boot):
            return
        worker.held.add(lease)
        worker.declines = 0
        if attempt.state is AttemptState.LEASED:
            self._record(Accepted(evaluation=evaluation.id, lease=lease))

    def _reports(self, worker: Worker, beat: Beat) -> None:
        """Note that only the report is missing of a lease, so that its engine is free.

        Of one at a time: the result of the last one may still be on its way.
        """
        self._holds(worker, beat.reporting)
        held = self.run_state.held_by(worker.name)
        if held is None or self.run_state.reported_by(worker.name) is not None:
            return
        evaluation, attempt = held
        if attempt.lease == beat.reporting and beat.reporting in worker.held:
            self._record(
                AnswersComplete(evaluation=evaluation.id, lease=attempt.lease, seconds=beat.worked)
            )

    def _decline(self, worker: Worker, message: Decline) -> None:
        worker.held.discard(message.lease)
        found = self.run_state.find(message.lease)
        if found is None or not found[1].active:
            return
        evaluation, attempt = found
        if (attempt.worker, attempt.boot) != (worker.name, worker.boot):
            return
        self._lose(evaluation, attempt, f"{worker.name} declined: {message.reason}")
        if self.fleet.declined(worker):
            worker.quarantined = f"declines its leases: {message.reason}"
            self._record(
                WorkerQuarantined(worker=worker.name, boot=worker.boot, reason=worker.quarantined)
            )

    def _lose(self, evaluation: Evaluation, attempt: Attempt, reason: str) -> None:
        self._record(Lost(evaluation=evaluation.id, lease=attempt.lease, reason=reason))

    # ---- results -------------------------------------------------------------------------
    #
    # The first valid result of an evaluation counts, whichever attempt it came from, and so does
    # that of its first step before it. An attempt still in progress is then cancelled. A result
    # that comes later is logged as a duplicate.

    def _result(self, worker: Worker, message: Result) -> None:
        """Record a result, and acknowledge it after the commit that stores it."""
        run = self.run_state.run
        found = self.run_state.find(message.lease)
        if found is None or found[0].id != message.evaluation:
            log.warning("%s sent a result of an unknown lease %s", worker.name, message.lease)
            worker.delivering.discard(message.lease)
            self._send_after_commit(
                worker.identity, Cancel(run=run, lease=message.lease, unknown=True)
            )
            return
        evaluation, attempt = found
        if not attempt.kept:
            self._keeper.ended(message)
        failure = self._failure(evaluation, attempt, message)
        if failure is not None:
            self._fail(worker, evaluation, attempt, failure)
        elif evaluation.state in SETTLED or (
            isinstance(message.body, Stepped) and evaluation.step is not None and not attempt.beaten
        ):
            self._late(evaluation, attempt, message)
        else:
            self._succeed(worker, evaluation, attempt, message)
        worker.held.discard(message.lease)
        worker.delivering.discard(message.lease)
        self._send_after_commit(worker.identity, ResultAck(run=run, lease=message.lease))

    def _failure(self, evaluation: Evaluation, attempt: Attempt, message: Result) -> Failed | None:
        """The failure that a result reports, or what is wrong with it; None for a valid result."""
        assert self.run_state.spec is not None
        body = message.body
        expected = ["measured" if evaluation.purpose == "measure" else "evaluated"]
        if attempt.upto or attempt.beaten:
            expected.append("stepped")
        text = ""
        if canonical_hash(body.model_dump(mode="json")) != message.digest:
            text = "the result is damaged: its digest does not match"
        elif isinstance(body, Failed):
            return body
        elif attempt.epoch < self.run_state.verified_epoch:
            text = "it was measured with questions that have been replaced since"
        elif body.kind not in expected:
            text = f"a {body.kind} body for a job that is to be {' or '.join(expected)}"
        elif isinstance(body, Measured) and len(body.parameter) != self.run_state.layers:
            text = f"{len(body.parameter)} layers measured, the run has {self.run_state.layers}"
        else:
            text = self._wrong_answers(evaluation, body)
        return Failed(fault="infrastructure", message=text[:4096]) if text else None

    def _wrong_answers(self, evaluation: Evaluation, body: Evaluated | Stepped | Measured) -> str:
        """What is wrong with the answers to benchmarks that a result has; "" if nothing is."""
        spec = self.run_state.spec
        assert spec is not None
        if isinstance(body, Measured):
            return ""
        asked = {b.name: b.repeats for b in spec.benchmarks}
        answered = {name: result.repeats for name, result in body.benchmarks.items()}
        if set(answered) != set(asked):
            return f"benchmarks {sorted(answered)} instead of {sorted(asked)}"
        if answered != asked:
            return f"repeats of the benchmarks are {answered} instead of {asked}"
        if isinstance(body, Stepped):
            parts = body.benchmarks.values()
            if any(part.answered != len(part.outcomes) for part in parts):
                return "the outcomes of answers are missing"
            answers, expected = (
                sum(part.answers for part in parts),
                answers_of_a_merge(self.run_state),
            )
            return "" if answers == expected else f"{answers} answers instead of {expected}"
        # References are judged before the search begins.
        return "" if evaluation.purpose == "reference" else missing_metrics(spec, body)

    def _succeed(
        self, worker: Worker, evaluation: Evaluation, attempt: Attempt, message: Result
    ) -> None:
        worker.failures_in_row, worker.last_failure = 0, ""
        rival = evaluation.active_attempt
        event = _recorded(evaluation, attempt, message)
        self._record(event)
        if isinstance(event, Paused) and attempt.beaten:
            self._record(Stopped(evaluation=evaluation.id, reason=attempt.beaten))
        if rival is not None and rival.lease != attempt.lease:
            self._cancel(rival)

    def _cancel(self, rival: Attempt) -> None:
        """Cancel another attempt at an evaluation that is done.

        Should the CANCEL be lost, the worker's next BEAT brings another one.
        """
        worker = self.fleet.workers.get(rival.worker)
        if worker is not None and worker.boot == rival.boot:
            worker.held.discard(rival.lease)
            self._send_after_commit(
                worker.identity, Cancel(run=self.run_state.run, lease=rival.lease)
            )

    def _late(self, evaluation: Evaluation, attempt: Attempt, message: Result) -> None:
        """Log a result that came after its evaluation had ended, unless it is a repetition."""
        if attempt.state in DELIVERED or attempt.lease in self.run_state.duplicates:
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
        fault = self._judged(failure.fault, evaluation, attempt)
        if fault == "run_file":
            self._read_again(worker)
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
        if self.fleet.failed(worker, evaluation.id, fault):
            worker.quarantined = failure.message or "failed twice in a row"
            self._record(
                WorkerQuarantined(worker=worker.name, boot=worker.boot, reason=worker.quarantined)
            )

    def _judged(self, fault: FailureKind, evaluation: Evaluation, attempt: Attempt) -> FailureKind:
        """What is at fault, by what else is known of the run.

        Once an evaluation was scored, nothing is wrong with the data or the run file that would be
        the fault of a later merge: its answers cannot be scored, or its worker cannot score any.
        """
        if fault == "engine" and not self._blames_vector(evaluation, attempt):
            return "infrastructure"
        if fault == "run_file" and evaluation.in_budget and self.run_state.has_scores:
            works = self.run_state.sessions.has_evaluated(attempt.boot)
            return "vector" if works else "infrastructure"
        return fault

    def _blames_vector(self, evaluation: Evaluation, attempt: Attempt) -> bool:
        """Whether an engine's death is held against the vector; never for references."""
        blames_vector = self.run_state.sessions.blames_vector(attempt.boot, evaluation.id)
        return evaluation.in_budget and blames_vector
