"""Seeded draws on the real vLLM, with more prompts than one step of the engine computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from apbmm_common.run_file import EngineSection, GenerationSection
from apbmm_worker import environment
from apbmm_worker.engine.driver import Prompt
from apbmm_worker.engine.resident import ResidentEngine
from tiny_checkpoints import write_tiny_qwen3

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("default"),  # vLLM's own
]


def test_prompts_that_do_not_fit_into_a_step_are_answered_by_their_seeds(tmp_path: Path) -> None:
    environment.apply(environment.CPU, tmp_path)
    model = write_tiny_qwen3(tmp_path / "model", seed=1, layers=2, head_dim=32)
    settings = EngineSection(
        arguments={
            "kv_cache_memory_bytes": 32 << 20,
            "max_num_seqs": 32,
            "max_num_batched_tokens": 64,
        }
    )
    generation = GenerationSection(max_tokens=8, context=64, temperature=1.0)
    prompts = [Prompt(tuple(range(3, 30 + n % 7)), seed=n % 20) for n in range(40)]
    engine = ResidentEngine(settings, generation, model, environment.CPU)
    try:
        answers = [future.result() for future in engine.submit(prompts)]
        long = [(p, a) for p, a in zip(prompts, answers, strict=True) if a.tokens > 3]
        begun = [replace(prompt, begun=answer.token_ids[:3]) for prompt, answer in long]
        rest = [future.result() for future in engine.submit(begun)]
        again = [future.result() for future in engine.submit(begun)]
    finally:
        engine.close()
    assert all(answer.tokens for answer in answers)
    assert len({answer.token_ids for answer in answers}) > 10
    # An answer that goes on behind its beginning has other draws, the same each time.
    assert [answer.token_ids for answer in rest] == [answer.token_ids for answer in again]
    for (prompt, whole), answer in zip(long, rest, strict=True):
        assert answer.token_ids[:3] == whole.token_ids[:3]
        assert 3 < answer.tokens <= generation.max_tokens
        assert answer.prompt_tokens == len(prompt.token_ids)
    same = [a.token_ids == whole.token_ids for (_, whole), a in zip(long, rest, strict=True)]
    assert sum(same) < len(same) / 2
