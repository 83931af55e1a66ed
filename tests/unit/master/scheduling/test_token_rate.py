"""Tokens a second, by the answers that arrive."""

from __future__ import annotations

import pytest

from apbmm_common.protocol.answers import Answer, pack, token_count
from apbmm_common.protocol.messages import Answers, KeptAnswer
from apbmm_master.scheduling.token_rate import TokenRate
from protocol_world import searched


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.25

    def __call__(self) -> float:
        return self.now


def answer(tokens: int) -> KeptAnswer:
    found = pack("0" * 64, Answer("text", tuple(range(tokens)), 3, "stop", 1.0))
    assert found is not None
    return found


def message(first: int, *tokens: int, lease: str = "l") -> Answers:
    return Answers(run="r", lease=lease, first=first, answers=tuple(map(answer, tokens)))


def test_a_packed_answer_tells_its_tokens() -> None:
    assert token_count(answer(70_000)) == 70_000
    assert token_count(KeptAnswer(key="0" * 64, packed=b"no answer")) == 0


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    rate = TokenRate(clock)
    rate.take(message(0, 100, 200))
    clock.now += 10
    rate.take(message(2, 300))
    assert rate.total == 600
    assert rate.over(60.0) == 60.0  # not more seconds than the master has lived
    clock.now += 50
    assert rate.over(60.0) == 10.0
    clock.now += 8
    assert rate.over(60.0) == 5.0
    clock.now += 60
    assert rate.over(60.0) == 0.0


def test_a_repeated_message_counts_once() -> None:
    clock = Clock()
    rate = TokenRate(clock)
    for _ in range(3):
        rate.take(message(0, 100))
    rate.take(message(0, 7, lease="other"))
    assert rate.total == 107


def test_the_end_of_a_lease_counts_what_was_not_sent_before() -> None:
    rate = TokenRate(Clock())
    rate.take(message(0, 100))
    rate.end("l", 250.0)
    rate.end("l", 250.0)  # a result is repeated
    rate.take(message(1, 150))  # and its answers may come late
    assert rate.total == 250
    rate.end("other", 30.0)
    assert rate.total == 280


def test_a_run_counts_the_tokens_of_its_results() -> None:
    world = searched(2)
    spent = world.run_state.spending.tokens
    assert spent > 0
    assert world.keeper._rate.total == pytest.approx(spent, abs=4)


def test_what_is_old_is_forgotten() -> None:
    clock = Clock()
    rate = TokenRate(clock)
    for _ in range(4000):
        clock.now += 1
        rate.add(1)
    assert len(rate._seconds) <= 1802
    assert rate.over(1e9) == 1801 / 1800
