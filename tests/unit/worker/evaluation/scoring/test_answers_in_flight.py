"""The prompts of one evaluation between the engine and the scoring process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from apbmm_common.errors import EvaluationError
from apbmm_common.protocol.answers import answer_key
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.answering import AnswerListener
from apbmm_worker.evaluation.scoring.answers_in_flight import AnswersInFlight
from apbmm_worker.evaluation.scoring.client import counted_questions
from apbmm_worker.evaluation.scoring.process import AskedBenchmark
from apbmm_worker.evaluation.scoring_protocol import Answered, ToScoring, Unanswered

PREPARED = 4
LIMIT = 9
COUNTED = {0: "a", 1: "a", 2: "b"}
"""Whose tokens in flight count; the adapter of the last question may ask on."""


class FakeEngine:
    """Answers when a test says so."""

    def __init__(self) -> None:
        self.asked: list[Prompt] = []
        self.futures: list[Future[Completion]] = []
        self.written: tuple[int, ...] = ()
        """What is generated of each answer before it is cut off."""

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        self.asked += prompts
        new: list[Future[Completion]] = [Future() for _ in prompts]
        self.futures += new
        return new

    def abort(self) -> None:
        for future in self.futures:
            future.cancel()

    def cut(self) -> None:
        for future, asked in zip(self.futures, self.asked, strict=True):
            if not future.done():
                tokens = (*asked.begun, *self.written)
                future.set_result(Completion("", tokens, len(asked.token_ids), "cut", 0.25))

    def count_tokens(self, tell: Callable[[Mapping[Future[Completion], int]], None]) -> None:
        pairs = zip(self.futures, self.asked, strict=True)
        tell({f: len(a.begun) + len(self.written) for f, a in pairs if not f.done()})


class Listening(AnswerListener):
    def __init__(self) -> None:
        self.counts: list[dict[str, int]] = []
        self.keys: list[str] = []
        self.answers: list[Completion] = []

    def answered(self, key: str, completion: Completion) -> None:
        self.keys.append(key)
        self.answers.append(completion)

    def generated(self, tokens: Mapping[str, int]) -> None:
        self.counts.append(dict(tokens))


def prompt(number: int) -> Prompt:
    return Prompt((1, 2, number), seed=number)


def key(number: int) -> str:
    return answer_key(prompt(number).token_ids, number)


def completion(number: int) -> Completion:
    return Completion(f"text {number}", (number,), 3, "stop", 0.5)


class Flight:
    """A flight of prepared questions of which ``kept`` have answers, and ``begun`` beginnings."""

    def __init__(self, *kept: int, begun: Mapping[int, tuple[int, ...]] | None = None) -> None:
        self.engine, self.listener = FakeEngine(), Listening()
        self.sent: list[ToScoring] = []
        self.progress: list[tuple[int, int]] = []
        answers = {key(number): completion(number) for number in kept}
        for number, tokens in (begun or {}).items():
            answers[key(number)] = Completion("", tokens, 3, "cut", 2.0)
        self.flight = AnswersInFlight(
            self.engine,
            self.sent.append,
            (PREPARED, PREPARED),
            LIMIT,
            self._report,
            answers,
            self.listener,
            COUNTED,
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
    assert flight.flight.lengths == {0: 1, 3: 1, 1: 1}, "of kept answers too"


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


def test_an_answer_that_was_cut_off_is_gone_on_with() -> None:
    flight = Flight(0, begun={1: (7, 8)})
    flight.flight.ask([(number, prompt(number)) for number in (0, 1, 2)])
    assert flight.engine.asked == [replace(prompt(1), begun=(7, 8)), prompt(2)]
    assert flight.flight.kept == 1, "a beginning is no answer"
    flight.engine.futures[0].set_result(Completion("whole", (7, 8, 9), 3, "stop", 0.5))
    whole = Completion("whole", (7, 8, 9), 3, "stop", 2.5)  # the seconds of both parts
    assert flight.sent[-1] == Answered.of(1, whole)
    assert (flight.listener.keys, flight.listener.answers) == ([key(1)], [whole])


def test_a_beginning_that_leaves_no_room_is_asked_anew() -> None:
    flight = Flight(begun={0: tuple(range(LIMIT)), 1: tuple(range(LIMIT - 1)), 2: ()})
    flight.flight.ask([(number, prompt(number)) for number in range(3)])
    begun = [len(asked.begun) for asked in flight.engine.asked]
    assert begun == [0, LIMIT - 1, 0]


def test_the_end_of_a_step_cuts_off_the_rest_and_keeps_what_is_new_of_it() -> None:
    flight = Flight(0, begun={1: (7, 8)})
    flight.flight.ask([(number, prompt(number)) for number in range(3)])
    flight.engine.written = (4,)
    flight.flight.cut()
    cut = [Completion("", (7, 8, 4), 3, "cut", 2.25), Completion("", (4,), 3, "cut", 0.25)]
    assert flight.sent[1:] == [Answered.of(n, answer) for n, answer in enumerate(cut, 1)]
    assert flight.listener.answers == cut
    assert flight.progress == [(1, 4)], "an answer that is cut off does not count"
    # What an adapter asks on is answered at once, with nothing.
    flight.flight.ask([(PREPARED, prompt(9))])
    assert flight.sent[-1] == Answered.of(PREPARED, Completion("", (), 3, "cut", 0.0))
    assert len(flight.engine.asked) == 2


def test_an_answer_of_which_nothing_new_was_generated_is_not_told() -> None:
    flight = Flight(begun={1: (7, 8)})
    flight.flight.ask([(number, prompt(number)) for number in range(3)])
    flight.flight.cut()
    assert [message.number for message in flight.sent if isinstance(message, Answered)] == [0, 1, 2]
    assert flight.listener.keys == []


def test_tokens_of_finished_and_kept_answers_count_with_those_in_flight() -> None:
    flight = Flight(0, begun={1: (7, 8)})
    flight.flight.ask([(number, prompt(number)) for number in range(PREPARED)])
    flight.flight.ask([(PREPARED, prompt(9))])
    flight.engine.written = (4, 4, 4)
    flight.engine.count_tokens(flight.flight.count)
    assert flight.listener.counts == [{"a": 1 + (2 + 3), "b": 3}]
    flight.engine.futures[1].set_result(Completion("", (1,) * 8, 3, "stop", 0.5))
    flight.engine.count_tokens(flight.flight.count)
    assert flight.listener.counts[1:] == [{"a": 6, "b": 8}]
    flight.flight.count({Future(): 10**6})
    assert flight.listener.counts[2:] == [{"a": 1, "b": 8}], "an answer to another merge"


def test_nothing_is_told_once_all_is_answered_or_cut_off() -> None:
    flight = Flight()
    flight.flight.ask([(0, prompt(0)), (1, prompt(1))])
    flight.flight.cut()
    flight.engine.count_tokens(flight.flight.count)
    flight = Flight(0, 1)
    flight.flight.ask([(0, prompt(0)), (1, prompt(1))])
    flight.engine.count_tokens(flight.flight.count)
    assert flight.listener.counts == []


@given(
    lengths=st.lists(st.integers(1, LIMIT), min_size=PREPARED, max_size=PREPARED),
    begun=st.lists(st.integers(0, LIMIT), min_size=PREPARED, max_size=PREPARED),
    writes=st.lists(st.integers(0, PREPARED - 1), max_size=PREPARED * LIMIT),
)
def test_no_count_is_more_than_the_answers_will_have(
    lengths: list[int], begun: list[int], writes: list[int]
) -> None:
    """A token at a time, in any order; some answers are kept, and others have a beginning."""
    kept = {n for n in range(PREPARED) if begun[n] > lengths[n]}
    written = {n: min(begun[n], lengths[n] - 1) for n in range(PREPARED) if n not in kept}
    flight = Flight(*kept, begun={n: (7,) * count for n, count in written.items()})
    flight.flight.ask([(number, prompt(number)) for number in range(PREPARED)])
    futures = dict(zip(written, flight.engine.futures, strict=True))
    for number in writes:
        if number in written:
            written[number] += 1
            if written[number] == lengths[number]:
                answer = Completion("", (7,) * written.pop(number), 3, "stop", 0.5)
                futures[number].set_result(answer)
        flight.flight.count({futures[n]: count for n, count in written.items()})
    lengths = [1 if n in kept else lengths[n] for n in range(PREPARED)]
    whole = {"a": lengths[0] + lengths[1], "b": lengths[2]}
    for before, after in itertools.pairwise([{}, *flight.listener.counts]):
        assert before.keys() <= after.keys() <= whole.keys()
        assert all(before.get(name, 0) <= after[name] <= whole[name] for name in after)


def test_questions_count_that_one_benchmark_asks_once() -> None:
    def asked(name: str, *numbers: int, asks_once: bool = True) -> AskedBenchmark:
        return AskedBenchmark(name, tuple(map(prompt, numbers)), (), "", asks_once)

    turns = asked("turns", 1, 2, asks_once=False)
    benchmarks = [asked("a", 3, 4, 4), turns, asked("b", 2, 4, 5)]
    assert counted_questions(benchmarks) == {0: "a", 7: "b"}
    assert counted_questions(benchmarks[:2]) == {0: "a", 1: "a", 2: "a"}
