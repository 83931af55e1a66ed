"""Which adapters ask each question once, so that no result has fewer tokens than are in flight."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("evalscope")

from apbmm_worker.evaluation.evalscope.adapters import (
    ExactMatchAdapter,
    asks_once,
    ensure_registered,
)


def adapter_of(name: str, **settings: Any) -> Any:
    from evalscope import TaskConfig
    from evalscope.api.registry import get_benchmark

    ensure_registered(name)
    task = TaskConfig(model="m", model_id="m", datasets=[name], dataset_args={name: {}}, **settings)
    return get_benchmark(name, task)


@pytest.mark.parametrize("name", ["apbmm_exact", "apbmm_answer", "math_500", "mmlu_pro"])
def test_adapters_with_the_inference_of_evalscope_ask_once(name: str) -> None:
    assert asks_once(adapter_of(name))


@pytest.mark.parametrize("name", ["mt_bench", "acebench", "scicode"])
def test_adapters_with_an_inference_of_their_own_may_ask_on(name: str) -> None:
    assert not asks_once(adapter_of(name))


def test_an_agent_asks_on() -> None:
    assert not asks_once(adapter_of("math_500", agent_config={"strategy": "function_calling"}))


@pytest.mark.parametrize(
    "method", ["run_inference", "_on_inference_start", "_on_inference", "_on_inference_end"]
)
def test_one_that_changes_a_part_of_the_inference_may_ask_on(method: str) -> None:
    adapter = adapter_of("apbmm_exact")
    own = type("Own", (ExactMatchAdapter,), {method: lambda *_: None})
    adapter.__class__ = own
    assert not asks_once(adapter)
    adapter.__class__ = ExactMatchAdapter
    assert asks_once(adapter)
    setattr(adapter, method, lambda *_: None)
    assert not asks_once(adapter)
