"""A pair with identical layers, and vocabularies padded to two sizes, on real parts.

The layers are found, left out of the search and merged; the engine has the common rows alone.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from apbmm_common.datasets.demo_pair import demo_folder
from apbmm_master.journal.run_state import RunState
from apbmm_master.journal.store import read_journal
from commands import free_address, run, started
from tiny_checkpoints import pad_vocabulary, with_identical_layers

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

IDENTICAL = (0, 3, 4)
LINE = "layers 0, 3-4 are not searched: their tensors are identical in all sources"
RUN = """
name = "partly-identical"
[sources]
thinking = "{folder}/thinking"
instruct = "{pair}/instruct"
[[benchmarks]]
name = "chain"
adapter = "apbmm_demo_chain_arithmetic"
path = "{pair}/problems/chain_arithmetic"
questions = 40
[generation]
max_tokens = 96
context = 256
[prior]
prompts = "{pair}/problems/prompts.jsonl"
questions = 4
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
    run_file, run_dir, address = tmp_path / "run.toml", tmp_path / "run", free_address()
    run_file.write_text(RUN.format(pair=pair, folder=tmp_path))
    assert LINE in run("apbmm", "check", run_file).stdout
    master_log, worker_log = tmp_path / "master.log", tmp_path / "worker.log"
    with (
        started(
            "apbmm-master", run_file, "--run-dir", run_dir, "--bind", address, log=master_log
        ) as master,
        started(
            "apbmm-worker",
            "--gpu",
            "cpu",
            "--master",
            address,
            "--state",
            tmp_path / "state",
            "--scratch",
            tmp_path / "scratch",
            log=worker_log,
            env={"APBMM_LOCK_DIR": str(tmp_path / "locks")},
        ),
    ):
        assert master.wait(500) == 0, master_log.read_text() + worker_log.read_text()
    assert LINE in master_log.read_text()
    run_state = RunState().replay(read_journal(run_dir))
    assert run_state.identical_layers == IDENTICAL
    assert len(run_state.completed) == 3
    searched = run_state.layers - len(IDENTICAL)
    assert all(len(run_state.evaluations[name].vector) == searched for name in run_state.completed)
    status = json.loads(run("apbmm", "status", run_dir, "--json").stdout)
    assert status["identical_layers"] == list(IDENTICAL)
