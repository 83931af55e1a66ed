"""--engine-arg: names and values for vLLM's own arguments."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any, Literal

import pytest

from apbmm_common.errors import UsageError
from apbmm_worker.engine_options import parse_engine_arguments, typed_arguments


class Backend(Enum):
    """As vLLM's own: values of which nobody is to know."""

    FLASH_ATTN = "some.module.FlashAttention"
    CPU_ATTN = "some.module.CpuAttention"


class Level(IntEnum):
    """Numbers with names."""

    O0 = 0
    O2 = 2


KNOWN: dict[str, Any] = {
    "attention_backend": Backend | None,
    "encoder_backend": Backend | str | None,
    "optimization_level": Level,
    "max_num_seqs": int | None,
    "enforce_eager": bool,
    "swap_space": float,
    "kv_cache_dtype": Literal["auto", "fp8"],
    "tokenizer_revision": str | None,
    "block_size": Literal[16, 32] | None,
    "limit_mm_per_prompt": dict[str, int],
    "compilation_config": Any,
    "quantization": str | None,
}


def read(*items: str) -> dict[str, Any]:
    return typed_arguments(parse_engine_arguments(items), KNOWN)


def test_values_take_the_types_that_vllm_gives_them() -> None:
    assert read(
        "max-num-seqs=64", "--enforce-eager=True", "swap_space=1e0", "kv_cache_dtype=fp8",
        "tokenizer_revision=0", "block_size=32", 'limit_mm_per_prompt={"image": 2}',
        "compilation_config=[1, 2]", "quantization=none",
    ) == {
        "max_num_seqs": 64, "enforce_eager": True, "swap_space": 1.0, "kv_cache_dtype": "fp8",
        "tokenizer_revision": "0", "block_size": 32, "limit_mm_per_prompt": {"image": 2},
        "compilation_config": [1, 2], "quantization": None,
    }  # fmt: skip
    assert read("attention_backend=FLASH_ATTN", "encoder_backend=cpu_attn") == {
        "attention_backend": "FLASH_ATTN", "encoder_backend": "CPU_ATTN"
    }  # fmt: skip
    assert read("attention_backend=none", "encoder_backend=own") == {
        "attention_backend": None, "encoder_backend": "own"
    }  # fmt: skip
    for text in ("2", "O2", "o2"):
        assert read(f"optimization_level={text}") == {"optimization_level": 2}
    assert read("max_num_seqs=none", "quantization=a=b") == {
        "max_num_seqs": None, "quantization": "a=b"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("max_num_seqs=many", "'many' is not an integer or none"),
        ("max_num_seqs=1.5", "is not an integer"),
        ("enforce_eager=1", "is not true or false"),
        ("kv_cache_dtype=fp9", "is not 'auto' or 'fp8'"),
        ("limit_mm_per_prompt={", "is not JSON .*hint: vllm serve --help says what"),
        ("attention_backend=FLASH", "'FLASH' is not one of FLASH_ATTN, CPU_ATTN or none"),
        ("attention_backend=some.module.CpuAttention", "not one of FLASH_ATTN, CPU_ATTN or none"),
        ("optimization_level=1", "'1' is not one of O0, O2, 0, 2"),
        ("attention_backend=flash_atn", "hint: close to it: FLASH_ATTN"),
        ("kv_cache_dtype=fp9", "hint: close to it: fp8"),
        ("max_num_seqs=many", "hint: vllm serve --help says what it takes"),
        ("max_num_seq=1", "no such engine argument.*max_num_seqs"),
        ("nothing_like_it=1", "no such engine argument.*--help"),
        ("max_num_seqs", "expected KEY=VALUE"),
        ("=1", "expected KEY=VALUE"),
        ("model=/x", "apbmm sets this itself"),
        ("tensor-parallel-size=2", "apbmm sets this itself"),
        ("trust_remote_code=true", "apbmm sets this itself"),
    ],
)
def test_what_cannot_be_is_named(item: str, said: str) -> None:
    with pytest.raises(UsageError) as failure:
        read(item)
    assert failure.match(said)


def test_a_key_is_given_once_and_memory_belongs_to_the_host() -> None:
    with pytest.raises(UsageError, match="given twice"):
        parse_engine_arguments(["max_num_seqs=1", "max-num-seqs=2"])
    assert parse_engine_arguments(["gpu_memory_utilization=0.8"]) == {
        "gpu_memory_utilization": "0.8"
    }


@pytest.mark.vllm
@pytest.mark.filterwarnings("default")  # vLLM's own
def test_vllms_own_arguments_have_types() -> None:
    from apbmm_worker.engine.vllm.features import argument_types

    items = parse_engine_arguments(
        ["max_num_seqs=64", "enforce_eager=true", "gpu_memory_utilization=0.8", "dtype_=1"]
    )
    known = argument_types()
    del items["dtype_"]
    assert typed_arguments(items, known) == {
        "max_num_seqs": 64, "enforce_eager": True, "gpu_memory_utilization": 0.8
    }  # fmt: skip
    with pytest.raises(UsageError, match="max_num_seqs"):
        typed_arguments({"max_num_sequences": "1"}, known)
    if "attention_backend" in known:  # older versions take it from the environment
        chosen = typed_arguments({"attention_backend": "flash_attn"}, known)
        assert chosen == {"attention_backend": "FLASH_ATTN"}
    with pytest.raises(UsageError, match="is not an integer"):
        typed_arguments({"max_num_seqs": "many"}, known)
