"""A master's run state, fleet, message handlers and policy; workers and network are simulated."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.errors import RunFileError
from apbmm_common.protocol.answers import CUT, Answer, answer_key, pack, replaces, unpack
from apbmm_common.protocol.messages import (
    Accept,
    Answers,
    AnswersAck,
    AnswersWanted,
    Assign,
    Beat,
    BeatAck,
    BenchmarkPart,
    BenchmarkResult,
    Bye,
    Cancel,
    Decline,
    Enough,
    Evaluated,
    Failed,
    FromMaster,
    FromWorker,
    Hello,
    HelloAgain,
    KeptAnswer,
    KeptAnswers,
    Lease,
    Measured,
    Ready,
    Refuse,
    Result,
    ResultAck,
    ScoredOutcome,
    Stepped,
    Welcome,
)
from apbmm_common.run_file import RunSpec, reference_vector
from apbmm_master.journal.assessment.scores import ScoreHistory
from apbmm_master.journal.events import (
    AnyEvent,
    EpochStarted,
    Estimated,
    EvaluationFailed,
    Finished,
    Finishing,
    Paused,
    Proposal,
    Proposed,
    Record,
    ResultRecorded,
    RunStarted,
    Stopped,
)
from apbmm_master.journal.lifecycle import SETTLED, EvaluationState
from apbmm_master.journal.run_start.adaptive_blocks import find_borders
from apbmm_master.journal.state.evaluations import MEASURE, Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.answer_tables import BLAMED, AnswerTables
from apbmm_master.journal.storage.answer_tables import SCHEMA as ANSWER_SCHEMA
from apbmm_master.scheduling.answer_keeper import AnswerKeeper
from apbmm_master.scheduling.fleet import Fleet
from apbmm_master.scheduling.leases import LeaseDispatch
from apbmm_master.scheduling.message_handlers import MessageHandlers
from apbmm_master.scheduling.policy.asking import initial_missing
from apbmm_master.scheduling.policy.decide import decide
from apbmm_master.scheduling.policy.decisions import AskForVectors, BeginFinishing, FinishRun
from apbmm_master.scheduling.policy.estimated_merges import EstimatedMerges
from apbmm_master.scheduling.policy.reachable_objectives import ReachableObjectives
from apbmm_master.scheduling.policy.situation import Situation
from apbmm_master.scheduling.policy.standstill import run_file_fault
from rehearsal_runs import run_spec

RUN = "world-1"
LAYERS = 4
PROMPTS = {answer_key([number], 0): number for number in range(6)}
"""The questions that every merge is asked, by the keys of their answers."""
DIGESTS = {"rehearsal": "d"}
TIMINGS = {
    "beat": 1.0, "suspect": 5.0, "unreachable": 10.0, "reconcile": 20.0, "orphan_grace": 30.0,
    "resend": 2.0,
}  # fmt: skip


def world_spec(**changes: Any) -> RunSpec:
    """A small rehearsal with round timings."""
    changes.setdefault("budget", {"evaluations": 4, "initial": 2, "failures": 3})
    changes.setdefault("timings", TIMINGS)
    return run_spec(**changes)


def measurement(accuracy: float = 0.5, tokens: float = 100.0) -> Evaluated:
    """A body with one benchmark, as `run_spec` names it."""
    return Evaluated(
        benchmarks={
            "sums": BenchmarkResult(metrics={"accuracy": accuracy, "tokens": tokens}, questions=10)
        }
    )


def body_of(assign: Assign) -> Evaluated | Measured:
    """What an honest worker measures: more of the first source is better and dearer."""
    if assign.work == "measure":
        return Measured(parameter=(1.0,) * LAYERS, activation=(1.0,) * LAYERS, prompts=1)
    body = measured_of(assign.vector)
    return with_outcomes(body) if assign.work == "reference" else body


def with_outcomes(body: Evaluated) -> Evaluated:
    """The same with an outcome for each question, which estimates of others need."""
    rows = tuple((str(number), 1.0, 1, "stop") for number in range(10))
    result = body.benchmarks["sums"].model_copy(update={"outcomes": rows})
    return Evaluated(benchmarks={"sums": result})


def measured_of(vector: Sequence[float]) -> Evaluated:
    """What a vector gives."""
    share = sum(vector) / LAYERS
    return measurement(0.2 + 0.6 * share, 100 + 900 * share)


def answer_of(vector: Sequence[float], key: str) -> KeptAnswer:
    """What the merge of a vector answers to a question."""
    answer = Answer(f"{list(vector)} on {PROMPTS[key]}", (1, PROMPTS[key]), 1, "stop", 0.5)
    packed = pack(key, answer)
    assert packed is not None
    return packed


def cut_answer_of(vector: Sequence[float], key: str) -> KeptAnswer:
    """The same, cut off after its first token."""
    packed = pack(key, Answer("", unpack(answer_of(vector, key)).token_ids[:1], 1, CUT, 0.25))
    assert packed is not None
    return packed


def is_finished(kept: KeptAnswer) -> bool:
    """Whether an answer is not cut off."""
    return unpack(kept).finish_reason != CUT


def outcome_of(key: str, *, rambles: bool = False) -> ScoredOutcome:
    """The outcome of a question; one that ``rambles`` is wrong and takes very many tokens."""
    return ScoredOutcome(
        benchmark="sums",
        question=str(PROMPTS[key]),
        score=float(not rambles),
        tokens=10_000 if rambles else 2,
        finish_reason="stop",
    )


def step_of(has: Iterable[KeptAnswer], *, rambles: bool = False) -> Stepped:
    """What a merge has answered of the questions of `measurement`."""
    outcomes = [outcome_of(kept.key, rambles=rambles) for kept in has if is_finished(kept)]
    cut = tuple((str(PROMPTS[kept.key]), 1) for kept in has if not is_finished(kept))
    part = BenchmarkPart(
        questions=10,
        answered=len(outcomes),
        tokens=sum(outcome.tokens for outcome in outcomes) + len(cut),
        outcomes=tuple((o.question, o.score, o.tokens, o.finish_reason) for o in outcomes),
        cut=cut,
    )
    return Stepped(benchmarks={"sums": part})


def estimate_of(evaluation: Evaluation) -> dict[str, dict[str, tuple[float, float]]]:
    """What is estimated of a merge: what it will have."""
    found = measured_of(evaluation.vector).benchmarks["sums"].metrics
    return {"sums": {"accuracy": (found["accuracy"], 0.01), "tokens": (found["tokens"], 400.0)}}


def result_of(
    assign: Assign, body: Evaluated | Stepped | Measured | Failed, seconds: float = 1.0
) -> Result:
    """The RESULT of an assignment."""
    return Result(
        run=assign.run, evaluation=assign.evaluation, attempt=assign.attempt, lease=assign.lease,
        seconds=seconds, digest=canonical_hash(body.model_dump(mode="json")), body=body,
    )  # fmt: skip


@dataclass
class Sim:
    """A worker as the protocol sees it; what it wants to say is in ``says``.

    ``has``: answers to the questions of its lease, its engine's or kept ones; ``asked``: keys of
    all questions that its engine was asked, by lease. ``new``: answers that are not sent yet,
    ``flying``: the message of those that are not acknowledged. ``fetches``: it waits for more kept
    answers. ``reporting``: a lease whose answers are complete, and what its report will say.
    ``rambles``: see `outcome_of`. ``in_flight``: tokens of answers in flight.
    """

    name: str
    boot: str
    identity: bytes
    alive: bool = True
    welcome: bool = False
    hellos: int = 0
    held: Assign | None = None
    reporting: tuple[Assign, Evaluated | Stepped | Measured] | None = None
    outbox: dict[str, Result] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    refused: str = ""
    run: str = RUN
    outside: tuple[str, ...] = ()
    identical_layers: tuple[int, ...] = ()
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=lambda: dict(DIGESTS))
    says: list[FromWorker] = field(default_factory=list)
    has: dict[str, KeptAnswer] = field(default_factory=dict)
    asked: dict[str, list[str]] = field(default_factory=dict)
    new: list[KeptAnswer] = field(default_factory=list)
    flying: Answers | None = None
    acknowledged: int = 0
    fetched: int = 0
    fetches: bool = False
    rambles: bool = False
    in_flight: int = 0

    @property
    def works(self) -> list[Assign]:
        """What it holds."""
        reported = [] if self.reporting is None else [self.reporting[0]]
        return reported if self.held is None else [self.held, *reported]

    def hello(self) -> None:
        """Say HELLO."""
        self.hellos += 1
        held = tuple(_lease(assign) for assign in self.works)
        self.says.append(
            Hello(
                worker=self.name, boot=self.boot, number=self.hellos, gpu="0", host="h", pid=1,
                versions={}, held=held,
                unacknowledged=tuple(_lease(r) for r in self.outbox.values()),
            )
        )  # fmt: skip

    def beat(self) -> None:
        """Say what is held, and send again what is not acknowledged."""
        if not self.welcome:
            self.hello()
            return
        lease = self.held.lease if self.held else ""
        reporting = self.reporting[0].lease if self.reporting else ""
        self.says.append(
            Beat(
                run=self.run, lease=lease, hello=self.hellos, reporting=reporting, worked=0.5,
                generated={"sums": self.in_flight} if lease and self.in_flight else {},
            )
        )  # fmt: skip
        self.stream()
        self.says.extend(self.outbox.values())

    def stream(self) -> None:
        """Say the answers that are not acknowledged, and ask for kept ones."""
        if self.held is None:
            return
        lease = self.held.lease
        if self.fetches:
            self.says.append(AnswersWanted(run=self.run, lease=lease, after=self.fetched))
        if self.flying is None and self.new:
            self.flying = Answers(
                run=self.run, lease=lease, first=self.acknowledged, answers=tuple(self.new),
                outcomes=tuple(
                    outcome_of(kept.key, rambles=self.rambles)
                    for kept in self.new
                    if is_finished(kept)
                ),
            )  # fmt: skip
            self.new = []
        if self.flying is not None:
            self.says.append(self.flying)

    def answer(self, count: int = 1) -> None:
        """Have the engine answer the next questions of the held lease."""
        assert self.held is not None
        if self.held.work == "measure":
            return
        asked = list(PROMPTS)[: self.held.upto or None]
        for key in [key for key in asked if not self._has_finished(key)][:count]:
            self.asked.setdefault(self.held.lease, []).append(key)
            self.has[key] = answer_of(self.held.vector, key)
            self.new.append(self.has[key])

    def _has_finished(self, key: str) -> bool:
        return key in self.has and is_finished(self.has[key])

    def _end_step(self) -> Evaluated | Stepped:
        """Have the engine answer what is enough for the held step, and cut the others off."""
        assert self.held is not None
        asked = list(PROMPTS)[: self.held.upto]
        self.answer(max(0, self.held.enough - sum(map(self._has_finished, asked))))
        for key in asked:
            if key not in self.has:
                self.has[key] = cut_answer_of(self.held.vector, key)
                self.new.append(self.has[key])
        return self._body()

    def _body(self) -> Evaluated | Stepped:
        """What there is of the held merge."""
        assert self.held is not None
        if all(map(self._has_finished, PROMPTS)):
            return measured_of(self.held.vector)
        return step_of(self.has.values(), rambles=self.rambles)

    def hear(self, message: FromMaster) -> None:  # noqa: C901 - one branch for each
        """React as the daemon does."""
        match message:
            case Welcome():
                self.welcome, self.run = True, message.run
                for lease in message.abandon:
                    self._drop_lease(lease)
                self._ready()
            case HelloAgain():
                self.welcome = False
                self.hello()
            case Assign():
                self._assigned(message)
            case ResultAck():
                self.outbox.pop(message.lease, None)
            case AnswersAck() | KeptAnswers():
                self._hear_of_answers(message)
            case Cancel():
                self._drop_lease(message.lease)
            case Enough():
                held = self.held is not None and self.held.lease == message.lease
                if held and not self.fetches:  # else the repetition
                    self.finish(self._body())
            case Refuse(final=True):
                self.alive, self.refused = False, message.reason
            case BeatAck(stage="preparing"):
                self._ready()
            case _:
                pass

    def _ready(self) -> None:
        found = {
            "layers": LAYERS, "outside": self.outside, "digests": self.digests,
            "identical_layers": self.identical_layers, "parts": dict(self.parts),
        }  # fmt: skip
        self.says.append(Ready.model_validate({"run": self.run, **found, "versions": {}}))

    def _hear_of_answers(self, message: AnswersAck | KeptAnswers) -> None:
        if isinstance(message, KeptAnswers):
            self._take_kept(message)
        elif self.flying is not None and message.lease == self.flying.lease:
            assert message.upto <= self.flying.upto
            if message.upto == self.flying.upto:
                self.acknowledged, self.flying = message.upto, None

    def _take_kept(self, message: KeptAnswers) -> None:
        held = self.held
        if held is None or message.lease != held.lease or message.after != self.fetched:
            return
        for kept in message.answers:
            whole, cut = answer_of(held.vector, kept.key), cut_answer_of(held.vector, kept.key)
            assert unpack(kept) in (unpack(whole), unpack(cut)), "another merge's"
            if kept.key not in self.has or replaces(kept, self.has[kept.key]):
                self.has[kept.key] = kept
        self.fetched += len(message.answers)
        self.fetches = bool(message.answers) and self.fetched < message.total

    def _drop_lease(self, lease: str) -> None:
        if self.held is not None and self.held.lease == lease:
            self._drop()
        elif self.reporting is not None and self.reporting[0].lease == lease:
            self.finished.add(lease)
            self.reporting = None

    def _drop(self) -> None:
        assert self.held is not None
        self.finished.add(self.held.lease)
        self._hold(None)

    def _hold(self, assign: Assign | None) -> None:
        self.held = assign
        self.fetches = assign is not None and (assign.kept > 0 or assign.attempt > 1)
        self.has, self.new, self.flying = {}, [], None
        self.acknowledged = self.fetched = 0

    def _assigned(self, assign: Assign) -> None:
        if assign.lease in self.outbox:
            return
        if self.reporting is not None and self.reporting[0].lease == assign.lease:
            self.says.append(Accept(run=self.run, lease=assign.lease, hello=self.hellos))
            return
        if self.held is not None and self.held.lease != assign.lease:
            self.says.append(Decline(run=self.run, lease=assign.lease, reason="it holds another"))
            return
        if assign.lease in self.finished:
            self.says.append(Decline(run=self.run, lease=assign.lease, reason="it is done with it"))
            return
        if self.held is None:
            self._hold(assign)
        self.says.append(Accept(run=self.run, lease=assign.lease, hello=self.hellos))

    def finish(
        self, body: Evaluated | Stepped | Measured | Failed | None = None, seconds: float = 1.0
    ) -> None:
        """End what is held, well unless a body says otherwise."""
        assert self.held is not None
        if body is None and self.held.upto:
            body = self._end_step()
        elif body is None:
            self.answer(len(PROMPTS))
        result = result_of(self.held, body or body_of(self.held), seconds)
        self._drop()
        self.outbox[result.lease] = result
        self.says.append(result)

    def complete_answers(self) -> None:
        """Answer the rest of what is held, and go on with its report while the engine is free."""
        assert self.held is not None
        if self.reporting is not None:
            return
        if self.held.upto:
            body: Evaluated | Stepped | Measured = self._end_step()
        else:
            self.answer(len(PROMPTS))
            body = body_of(self.held)
        self.stream()
        self.reporting = self.held, body
        self._hold(None)

    def report(self, failure: Failed | None = None) -> None:
        """End a report, well unless there is a failure."""
        assert self.reporting is not None
        assign, body = self.reporting
        self.reporting = None
        self.finished.add(assign.lease)
        self.outbox[assign.lease] = result_of(assign, failure or body)
        self.says.append(self.outbox[assign.lease])

    def lose_report(self) -> None:
        """Have the process that makes the report die; HELLO tells what is still held."""
        assert self.reporting is not None
        self.finished.add(self.reporting[0].lease)
        self.reporting = None
        self.welcome = False
        self.hello()

    def bye(self) -> None:
        """Leave for good."""
        self.stream()
        self.says.append(Bye(run=self.run, reason="stopped", kept=tuple(self.outbox)))
        self.alive = False


def _lease(work: Assign | Result) -> Lease:
    return Lease(run=work.run, evaluation=work.evaluation, attempt=work.attempt, lease=work.lease)


class World:
    """One run. Time moves only by `pass_time`, messages only by `deliver` and `turn`.

    Where a fault of the data or the run file ends the master, another one is started at once.

    `deliver` fails where a worker is told to forget a result that the journal does not have.
    """

    def __init__(self, **changes: Any) -> None:
        self.now = 1000.0
        self.stored: list[Record] = []
        self.workers: list[Sim] = []
        self.on_the_way: list[tuple[bytes, FromWorker]] = []
        self.answers: list[tuple[bytes, FromMaster]] = []
        self.fails_to_commit = False
        self.scores, self.estimates = ScoreHistory(), EstimatedMerges()
        self.reachable = ReachableObjectives()
        self.rambles = False
        """Whether the merges of workers that join from now on ramble."""
        self.search = 0
        """Another number, other vectors."""
        self.refused: list[RunFileError] = []
        """The faults of the data or the run file that a master has ended with."""
        self.database = sqlite3.connect(":memory:")
        self.database.executescript(ANSWER_SCHEMA)
        self.tables = AnswerTables(self.database)
        self._boots = 0
        self._use(RunState())
        self.record(RunStarted(run=RUN, spec=world_spec(**changes).model_dump(mode="json")))
        self.record(EpochStarted(epoch=1, host="h", pid=1))
        self.commit()

    def _use(self, run_state: RunState) -> None:
        self.run_state, self.fleet = run_state, Fleet()
        self._pending: list[Record] = []
        self._outgoing: list[tuple[bytes, FromMaster]] = []
        self.keeper = AnswerKeeper(run_state, self.tables, self._send)
        self.handlers = MessageHandlers(run_state, self.fleet, self.record, self._send, self.keeper)
        self.dispatch = LeaseDispatch(
            run_state, self.fleet, self.record, self._send, self.tables.of
        )
        self.listening_since = self.now

    def record(self, event: AnyEvent) -> None:
        """Apply an event and keep it for the commit."""
        record = Record(self.run_state.seq + 1, self.now, event)
        self.run_state.apply(record)
        self._pending.append(record)

    def _send(self, identity: bytes, message: FromMaster) -> None:
        self._outgoing.append((identity, message))

    # ---- the master ----------------------------------------------------------------------

    def situation(self) -> Situation:
        """The instant that policy sees."""
        now = Situation(self.now, self.listening_since, False, False, None, False)
        estimated = self.estimates.update(self.run_state, {})
        assert self.run_state.spec is not None
        if not (estimated or self.run_state.spec.steps.stop_beaten):
            return now
        front = list(self.scores.update(self.run_state).front.values())
        measured = np.array(front).reshape(-1, 2)
        scored, generated = self.tables.scored, self.fleet.generated
        reachable = self.reachable.update(self.run_state, scored, generated) if front else {}
        return replace(now, estimated=estimated, reachable=reachable, measured=measured)

    def _estimate(self) -> None:
        """What the search's process does with merges that have paused or were stopped."""
        paused = self.run_state.of_state(EvaluationState.PAUSED, EvaluationState.STOPPED)
        found = {e.id: estimate_of(e) for e in paused if e.estimate is None}
        if found and self.run_state.references_done:
            self.record(Estimated(estimates=found))

    @property
    def end(self) -> FinishRun | None:
        """How the run ended; None while it goes on."""
        state = self.run_state
        if not state.finished:
            return None
        return FinishRun(state.finished, state.failed, state.by_patience)

    def turn(self, messages: Iterable[tuple[bytes, FromWorker]] | None = None) -> None:
        """One turn of the master with ``messages`` (all that are on the way by default)."""
        if messages is None:
            messages, self.on_the_way = self.on_the_way, []
        for identity, message in messages:
            self.handlers.handle(identity, message, self.now)
        self._bootstrap()
        self._estimate()
        for decision in decide(self.run_state, self.fleet, self.situation()):
            match decision:
                case AskForVectors(count):
                    self._propose(count)
                case BeginFinishing(reason, by_patience):
                    self.record(Finishing(reason=reason, by_patience=by_patience))
                case FinishRun(reason, failed, by_patience):
                    self.record(Finished(reason=reason, failed=failed, by_patience=by_patience))
                case _:
                    self.dispatch.carry_out(decision, self.now)
        self.dispatch.resend(self.now)
        self.commit()
        error = run_file_fault(self.run_state, self.fleet) if self.end is None else None
        if error is not None:
            self.refused.append(error)
            self.restart()

    def commit(self) -> None:
        """Store the turn, or with ``fails_to_commit`` go back to what is stored."""
        if self.fails_to_commit and self._pending:
            self._use(RunState().replay(self.stored))
            return
        needless = self.tables.needless(record.event for record in self._pending)
        with self.database:
            self.tables.delete(needless)
        self.tables.deleted(needless)
        self.stored += self._pending
        self.answers += self._outgoing
        self._pending, self._outgoing = [], []
        batches, acks = self.keeper.due()
        if not self.fails_to_commit:
            self.tables.keep(batches)
            self.answers += acks

    def copy(self) -> tuple[list[Record], bytes]:
        """The journal as it is now."""
        return list(self.stored), self.database.serialize()

    def go_back_to(self, copy: tuple[list[Record], bytes]) -> None:
        """kill -9 of the master, and another one on an older copy of the journal."""
        self.stored, database = copy
        self.database.deserialize(database)
        self.tables.read()
        self.answers.clear()
        self.restart()

    def restart(self) -> None:
        """kill -9 of the master, and another one."""
        self._use(RunState().replay(self.stored))
        self.record(EpochStarted(epoch=self.run_state.epoch + 1, host="h", pid=1))
        self.commit()

    def _bootstrap(self) -> None:
        if self.run_state.layers and MEASURE not in self.run_state.evaluations:
            assert self.run_state.spec is not None
            sources = self.run_state.spec.sources
            references = ((name, reference_vector(sources, name, LAYERS)) for name in sources.names)
            for name, vector in ((MEASURE, ()), *references):
                if name in self.run_state.evaluations:  # learnt
                    continue
                purpose: Any = "measure" if name == MEASURE else "reference"
                proposal = Proposal(evaluation=name, vector=vector, key=name)
                self.record(Proposed(purpose=purpose, proposals=(proposal,)))
        find_borders(self.run_state, self.record)

    def _propose(self, count: int) -> None:
        assert self.run_state.spec is not None
        first = self.run_state.count() + 1
        purpose: Any = (
            "initial" if initial_missing(self.run_state, self.run_state.spec) else "search"
        )
        proposals = tuple(
            Proposal(
                evaluation=f"e{number:04d}",
                vector=(((number + self.search) % 97) / 97,) * self.run_state.space.dimensions,
                key=f"{number}",
            )
            for number in range(first, first + count)
        )
        calls = len(self.run_state.calls)
        self.record(Proposed(purpose=purpose, proposals=proposals, calls=calls))

    # ---- the workers and the network -----------------------------------------------------

    def join(
        self,
        name: str,
        outside: tuple[str, ...] = (),
        identical_layers: tuple[int, ...] = (),
        parts: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    ) -> Sim:
        """Start a worker process; the outbox of the name's last one is on its disk."""
        self._boots += 1
        old = next((w for w in reversed(self.workers) if w.name == name), None)
        boot = self._boots
        worker = Sim(
            name, f"boot{boot}", f"id{boot}".encode(),
            outside=outside, identical_layers=identical_layers, parts=parts, rambles=self.rambles,
        )  # fmt: skip
        if old is not None:
            old.alive = False
            worker.outbox = dict(old.outbox)
        self.workers.append(worker)
        worker.hello()
        return worker

    @property
    def alive(self) -> list[Sim]:
        """Workers that run."""
        return [worker for worker in self.workers if worker.alive]

    def deliver(self) -> None:
        """Bring every answer to its worker, and what the workers say on its way."""
        answers, self.answers = self.answers, []
        for identity, message in answers:
            for worker in self.workers:
                if worker.identity == identity and worker.alive:
                    if isinstance(message, ResultAck) and message.lease in worker.outbox:
                        self._may_be_forgotten(worker.outbox[message.lease])
                    if isinstance(message, AnswersAck) and worker.flying is not None:
                        self._is_kept(worker.flying, message)
                    worker.hear(message)
        self.collect()

    def _may_be_forgotten(self, result: Result) -> None:
        """An acknowledged result is in the journal, or was not needed any more."""
        settled = set()
        for record in self.stored:
            match record.event:
                case ResultRecorded() | EvaluationFailed() | Stopped() as event:
                    settled.add(event.evaluation)
                case Paused() as event if isinstance(result.body, Stepped):
                    settled.add(event.evaluation)
        assert isinstance(result.body, Failed) or result.evaluation in settled, "paid for and lost"

    def _is_kept(self, sent: Answers, ack: AnswersAck) -> None:
        """Acknowledged answers are in the journal, or are of no use any more."""
        found = self.run_state.find(ack.lease)
        if (sent.lease, sent.upto) != (ack.lease, ack.upto) or found is None:
            return
        evaluation, attempt = found
        old = attempt.epoch < self.run_state.verified_epoch
        blamed = any(other.fault in BLAMED for other in evaluation.attempts)
        if evaluation.state not in SETTLED and not old and not blamed:
            kept = {answer.key for answer in self.kept(evaluation.id)}
            assert kept >= {answer.key for answer in sent.answers}, "answered and lost"

    def kept(self, evaluation: str) -> list[KeptAnswer]:
        """The kept answers of an evaluation."""
        return list(self.tables.page(evaluation, 0))

    def collect(self) -> None:
        """Put what the workers say on its way."""
        for worker in self.workers:
            self.on_the_way += [(worker.identity, message) for message in worker.says]
            worker.says.clear()

    def exchange(self, rounds: int = 4) -> None:
        """Let messages flow until both sides are quiet, or ``rounds`` are over."""
        for _ in range(rounds):
            self.collect()
            self.turn()
            self.deliver()
            if not (self.on_the_way or self.answers):
                break

    def pass_time(self, seconds: float, *, silent: Iterable[Sim] = ()) -> None:
        """Move the clock on in steps of a beat, in which all but ``silent`` workers beat."""
        quiet = {id(worker) for worker in silent}
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            for worker in self.alive:
                if id(worker) not in quiet:
                    worker.beat()
            self.exchange()

    def settle(self, most: int = 400) -> None:
        """Workers behave from here on: they beat, evaluate honestly and deliver."""
        for _ in range(most):
            if self.end is not None:
                return
            self.now += 1.0
            for worker in self.alive:
                if worker.reporting is not None:
                    worker.report()
                if worker.held is not None:
                    worker.finish()
                worker.beat()
            self.exchange()
        active = list(self.run_state.active_attempts())
        raise AssertionError(f"not finished: {vars(self.fleet)} {active}")


def searched(evaluations: int) -> World:
    """A run of one worker up to its end."""
    world = World(budget={"evaluations": evaluations, "initial": evaluations, "failures": 0})
    worker = world.join("a")
    while world.end is None:
        world.exchange()
        world.now += 10.0
        if worker.held is not None:
            worker.finish()
    return world
