"""--engine-arg: names and values for vLLM's own arguments."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.errors import UsageError
from apbmm_common.run_file import EngineSection, GenerationSection
from apbmm_worker.engine_options import meant_instead, parse_engine_arguments


def read(*items: str) -> dict[str, Any]:
    from apbmm_worker.engine.vllm.kind import typed_arguments

    return typed_arguments(parse_engine_arguments(items))


def test_keys_and_values_are_taken_apart() -> None:
    assert parse_engine_arguments(
        ["max-num-seqs=64", "--enforce-eager=True", "quantization= a=b ", "swap_space="]
    ) == {
        "max_num_seqs": "64",
        "enforce_eager": "True",
        "quantization": "a=b",
        "swap_space": "",
    }


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("max_num_seqs", "expected KEY=VALUE"),
        ("=1", "expected KEY=VALUE"),
        ("model=/x", "apbmm sets this itself"),
        ("tensor-parallel-size=2", "apbmm sets this itself"),
        ("trust_remote_code=true", "apbmm sets this itself"),
    ],
)
def test_what_cannot_be_given_is_named(item: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_engine_arguments([item])


def test_a_key_is_given_once_and_memory_belongs_to_the_host() -> None:
    with pytest.raises(UsageError, match="given twice"):
        parse_engine_arguments(["max_num_seqs=1", "max-num-seqs=2"])
    assert parse_engine_arguments(["gpu_memory_utilization=0.8"]) == {
        "gpu_memory_utilization": "0.8"
    }


def test_close_names_are_hinted_at() -> None:
    assert meant_instead("max_num_seq", ["max_num_seqs", "seed"]) == "close to it: max_num_seqs"
    assert meant_instead("nothing_like_it", ["seed"]) == "vllm serve --help lists them"


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("max-num-seqs=64", 64),
        ("gpu_memory_utilization=8e-1", 0.8),
        ("enforce_eager=True", True),
        ("enable_prefix_caching=false", False),
        ("disable_log_stats=false", False),  # which has no --no-disable-log-stats
        ("kv_cache_dtype=fp8", "fp8"),
        ("block_size=32", 32),
        ("tokenizer_revision=0", "0"),
        ('limit_mm_per_prompt={"image": 2}', {"image": 2}),
        ("optimization_level=2", 2),
        ("optimization_level=o2", 2),
        ("attention_backend=flash_attn", "FLASH_ATTN"),
    ],
)
@pytest.mark.vllm
@pytest.mark.filterwarnings("default")  # vLLM's own
def test_vllm_gives_values_their_types(item: str, value: Any) -> None:
    from vllm import EngineArgs

    (name,) = parse_engine_arguments([item])
    if name not in {field.name for field in dataclasses.fields(EngineArgs)}:
        pytest.skip(f"this vLLM has no {name}")
    found = read(item)[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("max_num_seqs=many", "max_num_seqs: .*'many'.*hint: vllm serve --help says what it takes"),
        ("max_num_seqs=1.5", "'1.5'"),
        ("enforce_eager=1", "'1' is not one of true, false"),
        ("kv_cache_dtype=fp9", "'fp9' .*choose from"),
        ("limit_mm_per_prompt={", "limit_mm_per_prompt"),
        ("attention_backend=flash_atn", "is not one of .*hint: close to it: flash_attn"),
        ("optimization_level=17", "'17' is not one of 0, o0, "),
        ("max_num_seq=1", "no such engine argument.*max_num_seqs"),
        ("nothing_like_it=1", "no such engine argument.*--help"),
        ("_api_process_count=1", "no such engine argument"),  # a field, but no option
    ],
)
@pytest.mark.vllm
@pytest.mark.filterwarnings("default")  # vLLM's own
def test_what_vllm_does_not_take_is_named(item: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        read(item)
    assert "\n" not in str(refused.value)


@pytest.mark.vllm
@pytest.mark.filterwarnings("default")  # vLLM's own
def test_batch_invariance_needs_a_gpu_and_a_vllm_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apbmm_worker.engine.vllm import features, kind

    (tmp_path / "config.json").write_text('{"torch_dtype": "float32"}')
    settings = EngineSection(batch_invariant=True)
    generation = GenerationSection(max_tokens=10, context=200)
    assert features.has_batch_invariance()
    kind.arguments(settings, generation, tmp_path, "0", {})
    with pytest.raises(UsageError, match="no batch invariance on a CPU"):
        kind.arguments(settings, generation, tmp_path, "cpu", {})
    monkeypatch.setattr(features, "has_batch_invariance", lambda: False)
    with pytest.raises(UsageError, match="the installed vLLM has no batch invariance"):
        kind.arguments(settings, generation, tmp_path, "0", {})
