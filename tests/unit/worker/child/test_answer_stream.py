"""What an evaluation has measured so far, on its way to the daemon."""

from __future__ import annotations

import threading

from apbmm_common.errors import WireError
from apbmm_common.protocol.messages import ScoredOutcome
from apbmm_worker.child.answer_stream import ANSWERS_AN_EVENT, AnswerStream
from apbmm_worker.child_protocol import NewAnswers
from apbmm_worker.engine.driver import Completion
from apbmm_worker.evaluation.kept_answers import completions, packed

OUTCOME = ScoredOutcome(benchmark="b", question="q", score=1.0, tokens=2, finish_reason="stop")


def completion(number: int) -> Completion:
    return Completion(f"text {number}", (number, 70_000), 5, "stop", 0.5)


def key(number: int) -> str:
    return f"{number:064x}"


def test_everything_is_sent_by_the_end_of_the_block_in_events_that_are_bounded() -> None:
    sent: list[NewAnswers] = []
    asked = {key(n): completion(n) for n in range(3 * ANSWERS_AN_EVENT + 1)}
    with AnswerStream(sent.append, seconds=600.0) as stream:
        for name, answer in asked.items():
            stream.answered(name, answer)
        stream.scored(OUTCOME)
    assert len(sent) == 4
    assert completions(a for event in sent for a in event.answers) == asked
    assert [outcome for event in sent for outcome in event.outcomes] == [OUTCOME]
    assert max(len(event.answers) for event in sent) == ANSWERS_AN_EVENT


def test_answers_are_sent_while_the_evaluation_goes_on() -> None:
    arrived = threading.Event()
    with AnswerStream(lambda _: arrived.set(), seconds=0.01) as stream:
        stream.answered(key(1), completion(1))
        assert arrived.wait(60)


def test_who_tells_the_stream_never_waits_for_the_daemon_and_no_fault_of_it_is_raised() -> None:
    free, told = threading.Event(), threading.Event()

    def stuck(_: NewAnswers) -> None:
        told.set()
        free.wait(60)
        raise WireError("a message is over the limit")

    with AnswerStream(stuck, seconds=0.01) as stream:
        stream.scored(OUTCOME)
        assert told.wait(60)
        for number in range(1000):
            stream.answered(key(number), completion(number))
        free.set()


def test_a_damaged_answer_is_left_out_and_one_that_is_too_long_is_not_kept() -> None:
    fine, damaged = packed([(key(1), completion(1)), (key(2), completion(2))])
    damaged = damaged.model_copy(update={"packed": damaged.packed[:-1]})
    assert completions([fine, damaged]) == {key(1): completion(1)}
    long = Completion("x", tuple(range(5_000_000)), 5, "length", 0.5)
    assert packed([(key(3), long)]) == ()


def test_the_last_number_of_tokens_is_sent_once_also_without_answers() -> None:
    sent: list[NewAnswers] = []
    stream = AnswerStream(sent.append, seconds=600.0)
    with stream:
        stream.generated({"b": 3})
        stream.generated({"b": 5})
    with AnswerStream(sent.append, seconds=600.0):
        pass
    assert [event.generated for event in sent] == [{"b": 5}]
