"""A pair with identical layers, and vocabularies padded to two sizes, on real parts.

The layers are found, left out of the search and merged; the engine has the common rows alone.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from apbmm_common.datasets.demo_pair import demo_folder
from commands import called
from demo_pair_runs import run_to_its_end, write_run
from tiny_checkpoints import pad_vocabulary, with_identical_layers

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

IDENTICAL = (0, 3, 4)
LINE = "layers 0, 3-4 are not searched: their tensors are identical in all sources"
RUN = """
name = "partly-identical"
[sources]
thinking = "thinking"
instruct = "{pair}/instruct"
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
