"""Calls of EvalScope's mathematics in processes that are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from apbmm_worker.evaluation.evalscope.math_calls import MathCalls

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

ANSWERS = (
    r"so it is \boxed{468}",
    r"\boxed{\frac{1}{2}}",
    r"The answer is 0.5",
    r"\boxed{(3, \infty)}",
    r"\boxed{ unfinished",
    r"\boxed{336^\circ}",
    "nothing",
    "",
)


@pytest.fixture(scope="module")
def calls() -> Iterator[MathCalls]:
    calls = MathCalls()
    calls.start()
    yield calls
    calls.close()


def test_what_evalscope_finds_in_a_fork_is_found(
    calls: MathCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evalscope.metrics.math import parser

    def found() -> list[object]:
        texts = [parser.extract_answer(answer) for answer in ANSWERS]
        return [texts, [[parser.math_equal(a, b) for a in ANSWERS] for b in ("468", "0.5")]]

    forked = found()
    for name in ("run_isolated", "_warmed_up"):
        monkeypatch.setattr(parser, name, getattr(parser, name))
    calls.install()
    assert found() == forked
    assert forked[0] == ["468", r"\frac{1}{2}", *forked[0][2:]]  # type: ignore[index]


def test_a_call_that_exceeds_its_deadline_is_ended_and_the_next_one_runs(calls: MathCalls) -> None:
    from evalscope.metrics.math.contracts import MathEvaluationError

    start = time.monotonic()
    with pytest.raises(MathEvaluationError, match=r"exceeded the 0\.5s"):
        calls.run(time.sleep, (600,), 0.5, "sleep")
    assert time.monotonic() - start < 200
    assert calls.run(os.path.basename, ("/a/b",), 5, "basename") == "b"


def test_errors_and_dead_processes_are_told(calls: MathCalls) -> None:
    from evalscope.metrics.math.contracts import MathEvaluationError

    with pytest.raises(FileNotFoundError):
        calls.run(os.listdir, ("/nowhere",), 5, "listdir")
    with pytest.raises(MathEvaluationError, match="ended"):
        calls.run(os._exit, (3,), 5, "exit")
    assert calls.run(os.path.basename, ("/a/b",), 5, "basename") == "b"


def test_calls_of_many_threads(calls: MathCalls) -> None:
    with ThreadPoolExecutor(16) as threads:
        names = [f"/a/{n}" for n in range(200)]
        found = threads.map(
            lambda name: calls.run(os.path.basename, (name,), 30, "basename"), names
        )
        assert list(found) == [str(n) for n in range(200)]
