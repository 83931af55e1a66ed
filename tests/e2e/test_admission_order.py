"""The real vLLM begins requests in the order in which they are submitted, however long they are."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.run_file import EngineSection, GenerationSection
from apbmm_worker import environment
from apbmm_worker.engine.driver import EngineBackend, Prompt
from apbmm_worker.engine.resident import ResidentEngine
from tiny_checkpoints import write_tiny_qwen3

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("default"),  # vLLM's own
]

REQUESTS = 60
AT_ONCE = 4


def recorded_admissions(engine: ResidentEngine) -> list[list[int]]:
    """The numbers of the requests that vLLM's scheduler admits from now on, step by step."""
    steps: list[list[int]] = []

    def record(backend: EngineBackend) -> None:
        scheduler: Any = backend._engine.engine_core.engine_core.scheduler  # type: ignore[attr-defined]
        schedule = scheduler.schedule

        def schedule_and_record(*arguments: Any, **named: Any) -> Any:
            planned = schedule(*arguments, **named)
            new = [int(r.req_id.partition("-")[0]) for r in planned.scheduled_new_reqs]
            steps.append(new)
            return planned

        scheduler.schedule = schedule_and_record

    engine.call(record)
    return steps


def test_requests_begin_in_the_order_of_their_submission(tmp_path: Path) -> None:
    """Also prompts that do not fit into what one step computes, and with a full window."""
    environment.apply(environment.CPU, tmp_path)
    model = write_tiny_qwen3(tmp_path / "model", seed=1, layers=2, head_dim=32)
    numbers = random.Random(3)
    prompts = [
        Prompt(tuple(numbers.randrange(3, 90) for _ in range(numbers.choice((5, 50, 400)))))
        for _ in range(REQUESTS)
    ]
    settings = EngineSection(
        arguments={
            "kv_cache_memory_bytes": 32 << 20,
            "max_num_seqs": AT_ONCE,
            "max_num_batched_tokens": 256,
        }
    )
    engine = ResidentEngine(
        settings, GenerationSection(max_tokens=12, context=512), model, environment.CPU
    )
    try:
        steps = recorded_admissions(engine)
        for future in engine.submit(prompts):
            future.result()
    finally:
        engine.close()
    assert [number for step in steps for number in step] == list(range(REQUESTS))
    assert all(len(step) <= AT_ONCE for step in steps)
    assert len([step for step in steps if step]) > REQUESTS / AT_ONCE
