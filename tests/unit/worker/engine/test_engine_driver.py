"""The driver's promises, with a scripted engine in vLLM's place."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_worker.engine.driver import Completion, EngineDriver, Prompt
from commands import wait_until


class ScriptedEngine:
    """Answers each prompt with its own first token, one request a step; 666 breaks it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.waiting: dict[str, Prompt] = {}
        self.most_waiting = 0
        self.gate, self.steps = threading.Event(), threading.Event()
        self.gate.set()
        self.loads = 0
        self.closed = False

    def add(self, key: str, prompt: Prompt) -> None:
        assert threading.get_ident() == self.thread
        if not prompt.token_ids:
            raise ValueError("an empty prompt")
        self.waiting[key] = prompt
        self.most_waiting = max(self.most_waiting, len(self.waiting))

    def step(self) -> list[tuple[str, Completion]]:
        assert threading.get_ident() == self.thread
        self.steps.set()
        self.gate.wait()
        key, prompt = self.waiting.popitem()
        if prompt.token_ids[0] == 666:
            raise RuntimeError("out of memory")
        first = prompt.token_ids[:1]
        return [(key, Completion("", first, len(prompt.token_ids), "stop", 0.0))]

    def busy(self) -> bool:
        return bool(self.waiting)

    def unfinished(self, keys: Sequence[str]) -> list[tuple[str, Completion]]:
        assert threading.get_ident() == self.thread
        prompts = [(key, self.waiting[key]) for key in keys]
        if any(prompt.token_ids[0] == 777 for _, prompt in prompts):
            raise RuntimeError("out of tokens")
        return [(key, Completion("", (5, *p.token_ids), 1, "cut", 0.0)) for key, p in prompts]

    def token_counts(self, keys: Sequence[str]) -> dict[str, int]:
        assert threading.get_ident() == self.thread
        return {key: self.waiting[key].token_ids[1] for key in keys}

    def abort(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.waiting.pop(key, None)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def driver(engine: ScriptedEngine) -> Iterator[EngineDriver[ScriptedEngine]]:
    def build() -> ScriptedEngine:
        engine.thread = threading.get_ident()
        return engine

    driver = EngineDriver(build)
    yield driver
    engine.gate.set()
    driver.close()
    assert engine.closed


def after_a_step(
    driver: EngineDriver[ScriptedEngine], engine: ScriptedEngine, call: Callable[[], None]
) -> None:
    """Make a call of the driver while the first step is under way, which its gate holds back."""
    assert engine.steps.wait(60)
    calling = threading.Thread(target=call)
    calling.start()
    wait_until(lambda: not driver._commands.empty())
    engine.gate.set()
    calling.join(60)


def test_answers_come_in_the_order_of_the_prompts(
    driver: EngineDriver[ScriptedEngine], engine: ScriptedEngine
) -> None:
    futures = driver.submit([Prompt((n, 0)) for n in range(50)])
    assert [future.result(60).token_ids for future in futures] == [(n,) for n in range(50)]
    assert engine.most_waiting == 50
    assert driver.steps == 50


def test_requests_are_added_while_it_runs(
    driver: EngineDriver[ScriptedEngine], engine: ScriptedEngine
) -> None:
    engine.gate.clear()
    first = driver.submit([Prompt((1,)), Prompt((2,))])
    second = driver.submit([Prompt((3,))])
    engine.gate.set()
    assert [future.result(60).token_ids for future in (*first, *second)] == [(1,), (2,), (3,)]


def test_a_refused_prompt_harms_nobody_else(driver: EngineDriver[ScriptedEngine]) -> None:
    refused, answered = driver.submit([Prompt(()), Prompt((4,))])
    with pytest.raises(EvaluationError, match="refused a prompt") as failure:
        refused.result(60)
    assert failure.value.kind == "infrastructure"
    assert answered.result(60).tokens == 1
    assert driver.usable


def test_a_broken_engine_fails_everything_and_stays_broken(
    driver: EngineDriver[ScriptedEngine],
) -> None:
    futures = driver.submit([Prompt((1,)), Prompt((666,)), Prompt((2,))])
    futures[2].result(60)  # answered before
    for future in futures[:2]:
        with pytest.raises(EvaluationError, match="out of memory") as failure:
            future.result(60)
        assert failure.value.hint == ""  # apbmm try has no worker that replaces the engine
        assert failure.value.kind == "infrastructure"
    assert not driver.usable
    with pytest.raises(EvaluationError, match="out of memory"):
        driver.submit([Prompt((1,))])
    with pytest.raises(EvaluationError, match="out of memory"):
        driver.call(lambda _: None)


def test_a_failed_action_breaks_the_engine(driver: EngineDriver[ScriptedEngine]) -> None:
    def load(engine: ScriptedEngine) -> None:
        engine.loads += 1
        raise OSError("half a file")

    with pytest.raises(EvaluationError, match="half a file"):
        driver.call(load)
    assert not driver.usable


def test_no_action_while_requests_are_in_flight(
    driver: EngineDriver[ScriptedEngine], engine: ScriptedEngine
) -> None:
    engine.gate.clear()
    (future,) = driver.submit([Prompt((1,))])
    called = threading.Thread(target=engine.gate.set)

    def load(engine: ScriptedEngine) -> None:
        engine.loads += 1

    # The command is queued behind the request, which the gate holds back until it is queued.
    engine.gate.set()
    future.result(60)
    driver.call(load)
    assert engine.loads == 1
    called.start()
    called.join()


def test_abort_cancels_what_is_in_flight(
    driver: EngineDriver[ScriptedEngine], engine: ScriptedEngine
) -> None:
    engine.gate.clear()
    futures = driver.submit([Prompt((n,)) for n in range(5)])
    after_a_step(driver, engine, driver.abort)
    *dropped, answered = futures
    assert answered.result(60).token_ids == (4,)
    assert all(future.cancelled() for future in dropped)
    assert engine.waiting == {}
    assert driver.usable
    assert driver.submit([Prompt((9,))])[0].result(60).token_ids == (9,)


def test_what_is_in_flight_is_cut_off_with_its_tokens_so_far(
    driver: EngineDriver[ScriptedEngine], engine: ScriptedEngine
) -> None:
    engine.gate.clear()
    futures = driver.submit([Prompt((n,)) for n in range(5)])
    after_a_step(driver, engine, driver.cut)
    answers = [future.result(0) for future in futures]
    cut = [answer.token_ids for answer in answers if answer.finish_reason == "cut"]
    assert cut == [(5, n) for n in range(4)]
    assert engine.waiting == {}
    driver.cut()  # nothing is in flight
    assert driver.submit([Prompt((9,))])[0].result(60).token_ids == (9,)


def test_an_engine_that_cannot_cut_off_is_broken(
    driver: EngineDriver[ScriptedEngine], engine: ScriptedEngine
) -> None:
    engine.gate.clear()
    futures = driver.submit([Prompt((777,)), Prompt((1,)), Prompt((1,))])
    after_a_step(driver, engine, driver.cut)
    with pytest.raises(EvaluationError, match="out of tokens"):
        futures[0].result(60)
    assert not driver.usable


def test_an_engine_that_ends_just_now_has_nothing_to_cut_off_or_drop(
    driver: EngineDriver[ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut-off comes from another thread, which would end with an error of its own."""
    monkeypatch.setattr(EngineDriver, "usable", True)  # as that thread has seen it before
    driver.close()
    driver.cut()
    driver.abort()


def test_the_tokens_in_flight_are_counted_between_steps(
    driver: EngineDriver[ScriptedEngine], engine: ScriptedEngine
) -> None:
    told: queue.SimpleQueue[Mapping[Future[Completion], int]] = queue.SimpleQueue()
    engine.gate.clear()
    futures = driver.submit([Prompt((n, 10 + n)) for n in range(3)])
    driver.count_tokens(told.put)
    engine.gate.set()
    counts = told.get(timeout=60)
    assert counts
    assert counts.items() <= {future: 10 + n for n, future in enumerate(futures)}.items()
    for future in futures:
        future.result(60)
    driver.count_tokens(told.put)
    assert told.get(timeout=60) == {}


def test_an_engine_that_cannot_count_goes_on(
    driver: EngineDriver[ScriptedEngine], engine: ScriptedEngine
) -> None:
    told: list[Mapping[Future[Completion], int]] = []
    engine.gate.clear()
    futures = driver.submit([Prompt((1,)), Prompt((2,))])  # which have no second number
    driver.count_tokens(told.append)
    engine.gate.set()
    assert [future.result(60).tokens for future in futures] == [1, 1]
    driver.count_tokens(told.append)
    assert driver.submit([Prompt((3, 4))])[0].result(60).tokens == 1
    assert told == []
    driver.close()
    driver.count_tokens(told.append)
    assert told == []


def test_the_rest_of_an_answer_has_draws_of_its_own() -> None:
    whole, rest, later = Prompt((1,), 3), Prompt((1,), 3, (4,)), Prompt((1,), 3, (4, 5))
    assert whole.draws == 3
    assert len({whole.draws, rest.draws, later.draws}) == 3
    assert rest.draws == Prompt((1,), 3, (6,)).draws, "the number of tokens decides"
    assert 0 <= rest.draws < 2**32


def test_a_build_that_fails_is_reported() -> None:
    def build() -> ScriptedEngine:
        raise ValueError("no such card")

    with pytest.raises(ValueError, match="no such card"):
        EngineDriver(build)


def test_closing_fails_what_is_left(
    driver: EngineDriver[ScriptedEngine], engine: ScriptedEngine
) -> None:
    engine.gate.clear()
    futures = driver.submit([Prompt((n,)) for n in range(3)])
    after_a_step(driver, engine, driver.close)
    *left, answered = futures
    assert answered.result(60).token_ids == (2,)
    for future in left:
        with pytest.raises(EvaluationError, match="closed"):
            future.result(60)
    with pytest.raises(EvaluationError, match="closed"):
        driver.submit([Prompt((1,))])
