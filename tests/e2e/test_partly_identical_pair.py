"""A model and a LoRA adapter on another, with identical layers and two sizes of vocabulary.

On real parts: the layers are found, left out of the search and merged; the engine has the common
rows alone. What a run exports is what `apbmm merge` makes of the same sources.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from apbmm_common.datasets.demo_pair import demo_folder
from apbmm_worker.merging.folders.folder import RECIPE_FILE
from commands import called
from demo_pair_runs import run_to_its_end, write_run
from tiny_adapters import write_adapter
from tiny_checkpoints import load_tensors, pad_vocabulary, with_identical_layers, write_json

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

IDENTICAL = (0, 3, 4)
ADAPTED = ("layers.7.self_attn.q_proj", "layers.8.mlp.down_proj")
LINE = "layers 0, 3-4 are not searched: their tensors are identical in all sources"
RUN = """
name = "partly-identical"
[sources]
thinking = "thinking"
instruct = {{ path = "{pair}/instruct", adapter = "adapter" }}
[algorithm]
name = "ap-bmm-plus"
settings = {{ samples = 16, restarts = 2, raw_samples = 16 }}
[budget]
evaluations = 3
initial = 2
[merge]
vocabulary = "common"
[engine]
dtype = "float32"
hot_load = "memory"
"""


def vocabulary_size(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


def test_identical_layers_leave_the_search(tmp_path: Path) -> None:
    pair = demo_folder()
    adapter = write_adapter(
        tmp_path / "adapter", pair / "instruct", modules=ADAPTED, rank=2, scale=0.005
    )
    shutil.copytree(pair / "thinking", tmp_path / "thinking")
    with_identical_layers(tmp_path / "thinking", pair / "instruct", IDENTICAL)
    pad_vocabulary(tmp_path / "thinking", vocabulary_size(pair / "instruct") + 32)
    run_file = write_run(tmp_path / "run.toml", RUN)
    assert LINE in called("check", run_file, "--no-questions").stdout
    run_state, shown = run_to_its_end(run_file)
    assert LINE in shown
    assert run_state.identical_layers == IDENTICAL
    assert len(run_state.completed) == 3
    searched = run_state.layers - len(IDENTICAL)
    assert all(len(run_state.evaluations[name].vector) == searched for name in run_state.completed)
    status = json.loads(called("status", tmp_path / "run", "--json").stdout)
    assert status["identical_layers"] == list(IDENTICAL)

    exported, merged = tmp_path / "exported", tmp_path / "merged"
    last = run_state.completed[-1]
    done = called("export", tmp_path / "run", "--eval", last, "--out", exported)
    assert done.returncode == 0, done.stderr
    assert "bit for bit those that were evaluated" in done.stdout
    vector = json.loads((exported / RECIPE_FILE).read_text())["vector"]
    write_json(tmp_path / "weights.json", vector)
    done = called(
        "merge", "--source", f"thinking={tmp_path / 'thinking'}",
        "--source", f"instruct={pair / 'instruct'}+{adapter}", "--vocabulary", "common",
        "--weights", tmp_path / "weights.json", "--out", merged,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, expected = load_tensors(exported), load_tensors(merged)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    base = load_tensors(pair / "instruct")["model.layers.8.mlp.down_proj.weight"]
    one = load_tensors(tmp_path / "thinking")["model.layers.8.mlp.down_proj.weight"]
    without = vector[8] * one.float() + (1 - vector[8]) * base.float()
    assert (found["model.layers.8.mlp.down_proj.weight"].float() - without).abs().max() > 1e-4
