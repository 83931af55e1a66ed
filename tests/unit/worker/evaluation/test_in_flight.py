"""The prompts of one evaluation between the engine and the scoring process."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from apbmm_common.errors import EvaluationError
from apbmm_common.protocol.answers import answer_key
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.scoring_client import AnswerListener, _InFlight
from apbmm_worker.evaluation.scoring_protocol import Answered, ToScoring, Unanswered

PREPARED = 4


class FakeEngine:
    """Answers when a test says so."""

    def __init__(self) -> None:
        self.asked: list[Prompt] = []
        self.futures: list[Future[Completion]] = []

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        self.asked += prompts
        new: list[Future[Completion]] = [Future() for _ in prompts]
        self.futures += new
        return new

    def abort(self) -> None:
        for future in self.futures:
            future.cancel()


class Listening(AnswerListener):
    def __init__(self) -> None:
        self.keys: list[str] = []

    def answered(self, key: str, completion: Completion) -> None:  # noqa: ARG002
        self.keys.append(key)


def prompt(number: int) -> Prompt:
    return Prompt((1, 2, number), seed=number)


def key(number: int) -> str:
    return answer_key(prompt(number).token_ids, number)


def completion(number: int) -> Completion:
    return Completion(f"text {number}", (number,), 3, "stop", 0.5)


class Flight:
    """A flight of prepared questions of which ``kept`` have answers."""

    def __init__(self, *kept: int) -> None:
        self.engine, self.listener = FakeEngine(), Listening()
        self.sent: list[ToScoring] = []
        self.progress: list[tuple[int, int]] = []
        answers = {key(number): completion(number) for number in kept}
        self.flight = _InFlight(
            self.engine, self.sent.append, PREPARED, self._report, answers, self.listener
        )

    def _report(self, done: int, total: int) -> None:
        self.progress.append((done, total))


def test_kept_answers_go_to_be_scored_at_once_and_the_rest_to_the_engine_in_order() -> None:
    flight = Flight(0, 3)
    flight.flight.ask([(number, prompt(number)) for number in (2, 0, 3, 1)])
    assert flight.sent == [Answered.of(0, completion(0)), Answered.of(3, completion(3))]
    assert flight.engine.asked == [prompt(2), prompt(1)]
    assert flight.flight.kept == 2
    assert flight.progress == [(1, 4), (2, 4)]
    assert flight.listener.keys == []

    flight.engine.futures[1].set_result(completion(1))
    assert flight.sent[-1] == Answered.of(1, completion(1))
    assert flight.listener.keys == [key(1)]
    assert flight.progress[-1] == (3, 4)


def test_what_an_adapter_asks_on_is_taken_from_kept_answers_too_but_is_no_question() -> None:
    flight = Flight(7)
    flight.flight.ask([(PREPARED, prompt(7)), (PREPARED + 1, prompt(8))])
    flight.engine.futures[0].set_result(completion(8))
    assert flight.engine.asked == [prompt(8)]
    assert flight.sent == [Answered.of(4, completion(7)), Answered.of(5, completion(8))]
    assert flight.flight.kept == 0
    assert flight.progress == []


def test_an_answer_that_the_engine_does_not_give_is_told_and_never_kept() -> None:
    flight = Flight()
    flight.flight.ask([(number, prompt(number)) for number in range(2)])
    flight.engine.futures[0].set_exception(EvaluationError("out of memory", kind="engine"))
    flight.engine.abort()
    refused, dropped = flight.sent
    assert isinstance(refused, Unanswered)
    assert refused.failure is not None
    assert refused.failure.message == "out of memory"
    assert dropped == Unanswered(number=1)
    assert flight.listener.keys == []


def test_the_same_prompt_with_another_seed_is_another_question() -> None:
    flight = Flight(1)
    flight.flight.ask([(0, Prompt(prompt(1).token_ids, seed=2)), (1, prompt(1))])
    assert [p.seed for p in flight.engine.asked] == [2]
