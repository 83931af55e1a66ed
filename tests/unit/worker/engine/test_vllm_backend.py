"""What the backend asks of vLLM's engine; fakes stand for the engine and its library."""

from __future__ import annotations

import queue
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_common.run_file import GenerationSection
from apbmm_worker.engine.driver import Prompt
from apbmm_worker.engine.vllm import features, start_failure
from apbmm_worker.engine.vllm.backend import VllmBackend


class FakeEngine:
    """Answers each request with its own prompt, and counts what is in flight at every step."""

    def __init__(self) -> None:
        self.engine_core: Any = SimpleNamespace()
        self.in_flight: list[int] = []
        self._asked: dict[str, list[int]] = {}

    def collective_rpc(self, _: str, **__: Any) -> list[Any]:
        """A worker that holds what it ought to hold."""
        return [{"compared": 1, "tensors": 1, "different": [], "digest": "d"}]

    def add_request(self, key: str, request: dict[str, list[int]], _: Any) -> None:
        """Take a request in."""
        self._asked[key] = request["prompt_token_ids"]

    def has_unfinished_requests(self) -> bool:
        """Whether requests are in flight."""
        return bool(self._asked)

    def step(self) -> list[Any]:
        """Answer all of them."""
        self.in_flight.append(len(self._asked))
        asked, self._asked = self._asked, {}
        return [
            SimpleNamespace(finished=True, outputs=[SimpleNamespace(token_ids=tokens)])
            for tokens in asked.values()
        ]

    def reset_prefix_cache(self) -> bool:
        """Succeeds."""
        return True


def test_prompts_whose_answers_are_compared_share_no_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    monkeypatch.setattr(features, "new_engine", lambda _: engine)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=dict))
    backend = VllmBackend({}, GenerationSection(max_tokens=4, context=16), tmp_path)
    assert backend.greedy([Prompt((1, 2)), Prompt((3,))], 4) == ((1, 2), (3,))
    assert engine.in_flight == [1, 1]


class FakeClient:
    """Waits for outputs as vLLM's synchronous client does, whatever becomes of the process."""

    def __init__(self) -> None:
        self.resources = SimpleNamespace(engine_dead=False)
        self.outputs_queue: queue.Queue[Any] = queue.Queue()


class FakeEngineThatIsKilled(FakeEngine):
    """Its process is killed in the middle of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.engine_core = FakeClient()

    def step(self) -> list[Any]:
        """Wait for outputs."""
        self.engine_core.resources.engine_dead = True
        raise self.engine_core.outputs_queue.get(timeout=60)


def test_a_killed_engine_process_ends_the_step_that_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "new_engine", lambda _: FakeEngineThatIsKilled())
    monkeypatch.setattr(features, "DEATH_SECONDS", 0.01)
    backend = VllmBackend({}, GenerationSection(max_tokens=4, context=16), tmp_path)
    with pytest.raises(EvaluationError, match="engine process died") as failure:
        backend.step()
    assert failure.value.kind == "infrastructure"


def test_an_engine_that_does_not_start_is_named_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new_engine(_: Any) -> Any:
        raise RuntimeError("Engine core initialization failed. See root cause above.")

    monkeypatch.setattr(features, "new_engine", new_engine)
    monkeypatch.setattr(start_failure, "cause_of", lambda *_: "ValueError: no memory")
    with pytest.raises(EvaluationError, match="vLLM did not start: ValueError: no memory"):
        VllmBackend({}, GenerationSection(max_tokens=4, context=16), tmp_path)
    monkeypatch.setattr(start_failure, "cause_of", lambda *_: "")
    with pytest.raises(RuntimeError, match="root cause above"):
        VllmBackend({}, GenerationSection(max_tokens=4, context=16), tmp_path)
