"""A real master whose only worker takes its answers from a store of full evaluations.

Run state, journal, scheduling, search and estimates are the product's own. Missing are sockets, the
worker's processes and the clock: a worker answers at once. What one answers is in the store of
`evaluations`, by vector. Its engine runs so many answers at once, in the run's asking order,
and each of these makes a token in the same time. So the end of a step, or of a merge that is
beaten, cuts off answers as a real engine's does.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from apbmm_common.errors import ApbmmError
from apbmm_common.metrics import Outcome
from apbmm_common.protocol.messages import Evaluated, FromMaster, Measured, Stepped
from apbmm_common.run_file import RunSpec
from apbmm_master.journal.events import (
    Accepted,
    Beaten,
    Paused,
    ResultRecorded,
    SourcesVerified,
    Stopped,
    WorkerJoined,
    outcome_count,
)
from apbmm_master.journal.state.evaluations import Attempt, Evaluation
from apbmm_master.journal.storage.answer_tables import ScoredPart
from apbmm_master.journal.storage.store import Journal
from apbmm_master.master import Master
from apbmm_master.optimiser.client import OptimiserClient
from apbmm_master.optimiser.outcome_book import OutcomeBook
from apbmm_master.optimiser.process import (
    AskReply,
    AskRequest,
    EstimateReply,
    EstimateRequest,
    History,
    HistoryMismatchError,
    OptimiserProcess,
    OptimiserSession,
)
from apbmm_master.scheduling.fleet import Worker
from apbmm_master.scheduling.policy.beaten_merges import BEATEN, beaten_in_progress
from apbmm_master.scheduling.policy.reachable_objectives import ReachableObjectives
from apbmm_master.search.arrays import Array
from apbmm_worker.evaluation.asking_order import EVERYTHING, Step, asking_order
from apbmm_worker.evaluation.outcomes import benchmark_part, benchmark_result
from benchmarks.real_merges.evaluations import Evaluation as Stored
from benchmarks.real_merges.evaluations import Evaluations

WORKER = "store"
IDLE_SECONDS = 30.0
"""A master that has nothing to do for so long waits for what never comes."""


@dataclass(frozen=True)
class Answer:
    """One answer of a merge in full."""

    benchmark: str
    outcome: Outcome


def answers_in_order(stored: Stored, seed: int) -> list[Answer]:
    """All answers of a merge in the asking order of a run."""
    every = [
        Answer(name, Outcome(str(number), score, tokens, 0.0, "stop"))
        for name, found in stored.items()
        for number, (score, tokens) in enumerate(zip(found.scores, found.tokens, strict=True))
    ]
    sizes = {name: len(found.scores) for name, found in stored.items()}
    return [every[number] for number in asking_order(sizes, seed)]


@dataclass(frozen=True)
class Progress:
    """What is answered of the questions that are asked, and the tokens of answers in flight."""

    answered: Sequence[Answer]
    flying: Sequence[tuple[Answer, int]]


def in_turn(asked: Sequence[Answer], lanes: int) -> Iterator[Progress]:
    """The progress after each answer, with so many answers in flight at once."""
    waiting = list(enumerate(asked))[::-1]
    running: list[tuple[float, int, float]] = []
    answered: list[Answer] = []
    now = 0.0
    while waiting or running:
        while waiting and len(running) < lanes:
            place, answer = waiting.pop()
            heapq.heappush(running, (now + answer.outcome.tokens, place, now))
        now, place, _ = heapq.heappop(running)
        answered.append(asked[place])
        yield Progress(answered, [(asked[p], int(now - begun)) for _, p, begun in running])


class LocalProcess(OptimiserProcess):
    """The search in this process, so that the master waits for it."""

    def __init__(self, book: OutcomeBook) -> None:
        super().__init__()
        self._session = OptimiserSession(book)

    async def ask(self, request: AskRequest, whole_history: Callable[[], History]) -> AskReply:
        """As the process replies."""
        try:
            return self._session.reply(request)
        except HistoryMismatchError:
            return self._session.reply(replace(request, history=whole_history(), seen=0))

    async def estimates(self, request: EstimateRequest) -> EstimateReply:
        """As the process estimates."""
        return self._session.estimates(request)


class StoreMaster(Master):
    """Runs one search on a store, from its beginning to its end; ``book`` estimates.

    ``lanes``: how many answers the worker's engine runs at once. ``opening``: so many merges answer
    everything at once, whatever is asked of them.
    """

    def __init__(
        self,
        journal: Journal,
        spec: RunSpec,
        store: Evaluations,
        book: OutcomeBook,
        lanes: int,
        opening: int = 0,
    ) -> None:
        super().__init__(journal, spec, "tcp://127.0.0.1:*")
        self.optimiser = OptimiserClient(self._wake_up, journal.path.parent, LocalProcess(book))
        self._evaluations, self._lanes, self._opening = store, lanes, opening
        self._in_progress = ReachableObjectives()
        self.spent: dict[str, float] = {}
        """Tokens that were generated in all when each merge was measured in full."""
        self.record(WorkerJoined(worker=WORKER, boot="1", gpu="cpu", host="-", versions={}))
        self.record(SourcesVerified(worker=WORKER, layers=store.layers, digests={"store": "-"}))
        self.fleet.workers[WORKER] = Worker(
            WORKER, "1", b"", "cpu", "-", {}, float("inf"), stage="ready"
        )

    async def search(self) -> None:
        """Decide and answer until the run is over."""
        while True:
            self._decide()
            if self.optimiser.failure is not None:
                raise self.optimiser.failure
            for evaluation, attempt in list(self.run_state.active_attempts()):
                self._work(evaluation, attempt)
                self._wake_up()
            await self._commit()
            if self._end is not None:
                break
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                raise ApbmmError("the run stands still", "see its journal") from None
            self._wake.clear()
        await self.optimiser.close()

    async def _post(self, identity: bytes, message: FromMaster) -> None:
        """Nobody listens."""

    def _work(self, evaluation: Evaluation, attempt: Attempt) -> None:
        """Record what the worker makes of an assignment."""
        self.record(Accepted(evaluation=evaluation.id, lease=attempt.lease))
        of_attempt: dict[str, Any] = {
            "evaluation": evaluation.id, "attempt": attempt.number, "lease": attempt.lease,
            "worker": WORKER, "seconds": 1.0, "digest": "-",
        }  # fmt: skip
        if evaluation.purpose == "measure":
            found = self._evaluations.discrepancy()
            measured = Measured(parameter=found.parameter, activation=found.activation, prompts=1)
            self.record(ResultRecorded(body=measured, **of_attempt))
            return
        body = self._answered(evaluation, attempt)
        if isinstance(body, Evaluated):
            self.record(ResultRecorded(body=body, outcomes=outcome_count(body), **of_attempt))
            self.spent[evaluation.id] = self.run_state.spending.tokens
            return
        scores = {
            name: sum(score for _, score, *_ in part.outcomes)
            for name, part in body.benchmarks.items()
        }
        self.record(Paused(body=body, scores=scores, **of_attempt))
        if attempt.beaten:
            self.record(Stopped(evaluation=evaluation.id, reason=attempt.beaten))

    def _answered(self, evaluation: Evaluation, attempt: Attempt) -> Evaluated | Stepped:
        """What there is of a merge at the end of an attempt."""
        spec = self.run_state.spec
        assert spec is not None
        vector = evaluation.vector
        every = answers_in_order(self._evaluations.of(vector), spec.generation.seed)
        opens = len(self.run_state.completed) < self._opening
        step = EVERYTHING if opens else Step(attempt.upto, attempt.enough)
        asked = step.asked(every)
        needed = step.needed(len(asked))
        measured = self._measured()
        for progress in in_turn(asked, self._lanes):
            count = len(progress.answered)
            if count == len(every):
                break
            if count == needed or self._is_beaten(attempt, progress, measured):
                return stepped(every, progress)
        return Evaluated(
            benchmarks={name: benchmark_result(found) for name, found in by_benchmark(every)}
        )

    def _is_beaten(self, attempt: Attempt, progress: Progress, measured: Array) -> bool:
        """Record that the merge in progress is beaten, where it is, and the run stops such ones."""
        spec = self.run_state.spec
        assert spec is not None
        if not (spec.steps.stop_beaten and len(measured)):
            return False
        parts = {
            name: ScoredPart(
                len(found), sum(o.score for o in found), round(sum(o.tokens for o in found))
            )
            for name, found in by_benchmark(progress.answered)
        }
        reachable = self._in_progress.update(self.run_state, lambda _: parts)
        for beaten, _ in beaten_in_progress(self.run_state, reachable, measured):
            self.record(Beaten(evaluation=beaten.id, lease=attempt.lease, reason=BEATEN))
        return bool(attempt.beaten)


def by_benchmark(answers: Sequence[Answer]) -> list[tuple[str, list[Outcome]]]:
    """Outcomes by benchmark, in the order of the questions."""
    found: dict[str, list[Outcome]] = {}
    for answer in sorted(answers, key=lambda answer: int(answer.outcome.question)):
        found.setdefault(answer.benchmark, []).append(answer.outcome)
    return sorted(found.items())


def stepped(every: Sequence[Answer], progress: Progress) -> Stepped:
    """The body of a merge that has answered a part."""
    answered = dict(by_benchmark(progress.answered))
    cut: dict[str, list[tuple[str, int]]] = {}
    for answer, tokens in progress.flying:
        if tokens:
            cut.setdefault(answer.benchmark, []).append((answer.outcome.question, tokens))
    return Stepped(
        benchmarks={
            name: benchmark_part(answered.get(name, []), cut.get(name, []), len(outcomes))
            for name, outcomes in by_benchmark(every)
        }
    )
