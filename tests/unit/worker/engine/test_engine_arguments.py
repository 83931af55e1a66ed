"""What vLLM is started with."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from apbmm_common.run_file import EngineSection, GenerationSection
from apbmm_common.run_file.engine_limits import FOREIGN, RESERVED
from apbmm_worker.engine.vllm.arguments import EXTENSION_CLASS, engine_arguments

GENERATION = GenerationSection(max_tokens=10, context=200, seed=3)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": "float32"}))
    return tmp_path


def test_auto_is_the_checkpoints_own_dtype(checkpoint: Path) -> None:
    """vLLM's own auto would round float32 to bfloat16 without a word."""
    assert engine_arguments(EngineSection(), GENERATION, checkpoint, "cpu")["dtype"] == "float32"
    wanted = EngineSection(dtype="bfloat16")
    arguments = engine_arguments(wanted, GENERATION, checkpoint, "0")
    assert arguments["dtype"] == "bfloat16"
    assert "language_model_only" not in arguments


def test_a_multimodal_model_is_started_without_its_towers(tmp_path: Path) -> None:
    """And its dtype may be stated for its language model alone."""
    config = {"vision_config": {"depth": 2}, "text_config": {"dtype": "float32"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = engine_arguments(EngineSection(), GENERATION, tmp_path, "cpu")
    assert arguments["language_model_only"] is True
    assert arguments["dtype"] == "float32"
    own = EngineSection(arguments={"language_model_only": False})
    assert engine_arguments(own, GENERATION, tmp_path, "cpu")["language_model_only"] is False


def test_devices(checkpoint: Path) -> None:
    on_cpu = engine_arguments(EngineSection(), GENERATION, checkpoint, "cpu")
    assert on_cpu["enforce_eager"] is True
    assert "tensor_parallel_size" not in on_cpu
    on_cards = engine_arguments(EngineSection(), GENERATION, checkpoint, "0,1")
    assert on_cards["tensor_parallel_size"] == 2
    assert on_cards["gpu_memory_utilization"] == 0.9
    assert "enforce_eager" not in on_cards
    for arguments in (on_cpu, on_cards):
        assert (arguments["max_model_len"], arguments["seed"]) == (200, 3)


def test_the_run_file_adds_and_overrides_but_not_what_apbmm_decides(checkpoint: Path) -> None:
    settings = EngineSection(arguments={"max_num_seqs": 8, "enable_prefix_caching": False})
    arguments = engine_arguments(settings, GENERATION, checkpoint, "cpu")
    assert (arguments["max_num_seqs"], arguments["enable_prefix_caching"]) == (8, False)


@pytest.mark.vllm
def test_no_argument_of_vllms_that_is_a_path_or_a_class_is_for_a_run_file_to_give() -> None:
    from vllm.engine.arg_utils import EngineArgs

    ending = ("_path", "_dir", "_file", "_cls")
    found = {f.name for f in fields(EngineArgs) if f.name.endswith(ending)} | {"generation_config"}
    assert "download_dir" in found
    assert found <= FOREIGN | RESERVED


def test_the_extension_class_is_where_vllm_is_told_to_find_it() -> None:
    module, _, name = EXTENSION_CLASS.rpartition(".")
    assert name in dir(__import__(module, fromlist=[name]))
