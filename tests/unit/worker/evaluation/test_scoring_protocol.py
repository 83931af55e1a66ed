"""Prompts that the scoring process asks beside the prepared ones, and what becomes of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.evalscope.scoring_process import RemoteEngine
from apbmm_worker.evaluation.scoring_protocol import (
    FROM_SCORING,
    TO_SCORING,
    Abort,
    Answered,
    Ask,
    Failed,
    FromScoring,
    Unanswered,
)
from apbmm_worker.message_socket import LENGTH, bodies, message_in, to_bytes

PREPARED = [Prompt((1, 2), 3), Prompt((4,), 5)]
MORE = [Prompt((7, 8, 9), 2**53 - 1), Prompt((), 0)]


@pytest.fixture
def ends() -> Iterator[tuple[RemoteEngine, Iterator[FromScoring]]]:
    """The scoring process's engine, and what arrives at the process of the real one."""
    theirs, ours = socket.socketpair()
    ours.settimeout(10)
    with theirs, ours, ours.makefile("rb") as stream:
        arriving = (message_in(body, FROM_SCORING) for body in bodies(stream.read))
        yield RemoteEngine(theirs), arriving


def answered(number: int) -> Answered:
    """An answer as it arrives over the socket."""
    completion = Completion(f"answer {number}", (number,), 3, "stop", 0.5)
    message = message_in(to_bytes(Answered.of(number, completion))[LENGTH.size :], TO_SCORING)
    assert isinstance(message, Answered)
    return message


def test_prompts_are_asked_with_the_numbers_that_follow(
    ends: tuple[RemoteEngine, Iterator[FromScoring]],
) -> None:
    engine, arriving = ends
    engine.begin(len(PREPARED))
    prepared = engine.submit(PREPARED)  # in flight already: nothing is sent
    more, last = engine.submit(MORE), engine.submit(PREPARED[:1])
    first, second = next(arriving), next(arriving)
    assert isinstance(first, Ask)
    assert isinstance(second, Ask)
    assert (first.first, second.first) == (2, 4)
    assert [asked.prompt for asked in first.prompts] == MORE
    for number in (3, 0, 4, 1, 2):
        engine.take(answered(number))
    texts = [future.result(timeout=0).text for future in (*prepared, *more, *last)]
    assert texts == [f"answer {number}" for number in range(5)]
    engine.begin(1)
    engine.submit(PREPARED[:1])
    engine.submit(MORE)
    again = next(arriving)
    assert isinstance(again, Ask)
    assert again.first == 1


def test_asked_prompts_fail_and_are_dropped_like_prepared_ones(
    ends: tuple[RemoteEngine, Iterator[FromScoring]],
) -> None:
    engine, arriving = ends
    engine.begin(0)
    engine.submit([])
    failed, dropped, never = (engine.submit([prompt])[0] for prompt in (*MORE, PREPARED[0]))
    failure = Failed.of(EvaluationError("out of memory", "a hint", kind="engine"))
    engine.take(Unanswered(number=0, failure=failure))
    engine.take(Unanswered(number=1))
    engine.abort()
    with pytest.raises(EvaluationError, match="out of memory"):
        failed.result(timeout=0)
    for future in (dropped, never):
        with pytest.raises(CancelledError):
            future.result(timeout=0)
    engine.take(answered(2))  # too late
    assert [type(next(arriving)) for _ in range(4)] == [Ask, Ask, Ask, Abort]
