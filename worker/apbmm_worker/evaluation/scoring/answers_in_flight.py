"""The answers to one merge, from the engine to the scoring process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from apbmm_common.protocol.answers import CUT, answer_key
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.answering import (
    Answering,
    AnswerListener,
    AnswerProgress,
    CountTokens,
)
from apbmm_worker.evaluation.scoring_protocol import (
    Abort,
    Answered,
    Ask,
    Enough,
    Failed,
    FromScoring,
    QuestionScored,
    ToScoring,
    Unanswered,
    unexpected,
)
from apbmm_worker.periodic_thread import PeriodicThread

COUNT_SECONDS = 2.0


class AnswersInFlight:
    """The prompts of one evaluation; sends each answer when it is finished, a kept one at once.

    ``questions`` are the numbers of all prepared questions and of those that are asked, ``limit``
    the tokens that an answer may have. ``counted`` has the benchmark of each prepared question of
    which no result has fewer tokens than its answer in flight. The other arguments are those of
    `ScoringClient.evaluate`.
    """

    def __init__(
        self,
        engine: Answering,
        send: Callable[[ToScoring], None],
        questions: tuple[int, int],
        limit: int,
        progress: AnswerProgress,
        kept: Mapping[str, Completion],
        listener: AnswerListener,
        counted: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self.last_answer = time.monotonic()
        self.kept = 0
        """Prepared questions whose answers were kept."""
        self.lengths: dict[int, int] = {}
        """Tokens of the finished answers to prepared questions, by their numbers."""
        self._engine = engine
        self._send = send
        self._prepared, self._asked = questions
        self._limit = limit
        self._progress = progress
        self._kept = kept
        self._listener = listener
        self._counted = counted
        self._flying: dict[Future[Completion], int] = {}
        self._lock = threading.Lock()
        self._answered = 0
        self._is_cut = False

    def ask(self, asked: Sequence[tuple[int, Prompt]]) -> None:
        """Put prompts in flight, in this order, each with its number."""
        rest = []
        for number, prompt in asked:
            key = answer_key(prompt.token_ids, prompt.seed)
            kept = self._kept.get(key)
            if kept is not None and kept.finish_reason != CUT:
                self.kept += number < self._prepared
                self._give(number, kept)
            elif self._is_cut:  # what an adapter asks on
                self._give(number, Completion("", (), len(prompt.token_ids), CUT, 0.0))
            else:
                rest.append((key, number, self._continued(prompt, kept), kept))
        futures = self._engine.submit([prompt for _, _, prompt, _ in rest])
        numbers = [number for _, number, _, _ in rest]
        self._flying |= dict(zip(futures, numbers, strict=True))
        for (key, number, prompt, kept), future in zip(rest, futures, strict=True):
            before = kept if prompt.begun else None
            future.add_done_callback(partial(self._forward, key, number, before))

    def cut(self) -> None:
        """Cut off what is in flight."""
        self._is_cut = True
        self._engine.cut()

    def count(self, in_flight: Mapping[Future[Completion], int]) -> None:
        """Tell the listener of the tokens so far, given those of the answers in flight.

        Called in the engine's thread, so that no answer is both finished and in flight. Other
        answers than those of this evaluation are left out.
        """
        if self._is_cut or not self._flying:
            return
        with self._lock:
            tokens = dict(self.lengths)
        for future, count in in_flight.items():
            number = self._flying.get(future)
            if number is not None:
                tokens[number] = count
        found = Counter[str]()
        for number in self._counted.keys() & tokens.keys():
            found[self._counted[number]] += tokens[number]
        self._listener.generated(found)

    def obey(self, message: FromScoring) -> None:
        """Do what the scoring process asks for."""
        match message:
            case Ask(first=first, prompts=prompts):
                self.ask(list(enumerate((asked.prompt for asked in prompts), first)))
            case QuestionScored(outcome=outcome):
                self._listener.scored(outcome)
            case Enough():
                self.cut()
            case Abort():
                self._engine.abort()
            case _:
                raise unexpected(message)

    def _continued(self, prompt: Prompt, kept: Completion | None) -> Prompt:
        """The prompt, with the beginning of its answer where there is one that fits."""
        if kept is None or not 0 < len(kept.token_ids) < self._limit:
            return prompt
        return replace(prompt, begun=kept.token_ids)

    def _forward(
        self, key: str, number: int, before: Completion | None, future: Future[Completion]
    ) -> None:
        """Called in the engine's thread, which must not wait for the scoring process.

        ``before`` is what there was of the answer.
        """
        self._flying.pop(future, None)
        if future.cancelled():
            self._send(Unanswered(number=number))
            return
        error = future.exception()
        if error is not None:
            self._send(Unanswered(number=number, failure=Failed.of(error)))
            return
        answer = future.result()
        if before is not None:
            answer = replace(answer, seconds=before.seconds + answer.seconds)
        self._give(number, answer)
        known = before.tokens if before is not None else 0
        if answer.finish_reason != CUT or answer.tokens > known:
            self._listener.answered(key, answer)

    def _give(self, number: int, completion: Completion) -> None:
        self._send(Answered.of(number, completion))
        with self._lock:
            self.last_answer = time.monotonic()
            if number >= self._prepared or completion.finish_reason == CUT:
                return
            self.lengths[number] = len(completion.token_ids)
            self._answered += 1
            answered = self._answered
        self._progress(answered, self._asked)


class TokenCounts(PeriodicThread):
    """Has the tokens of a flight counted every ``seconds``; waits for no engine."""

    def __init__(
        self, flight: AnswersInFlight, count: CountTokens, seconds: float = COUNT_SECONDS
    ) -> None:
        super().__init__("token-counts", seconds)
        self._flight = flight
        self._count = count

    def _turn(self) -> None:
        self._count(self._flight.count)
