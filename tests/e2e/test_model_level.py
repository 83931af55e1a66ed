"""A model-level grid on real parts: task vectors against the demo pair's own base."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm_common.datasets.demo_pair import demo_folder
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.run_state import RunState
from apbmm_master.journal.store import read_journal
from commands import free_address, started

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

RUN = """
name = "ties"
[sources]
thinking = "{pair}/thinking"
instruct = "{pair}/instruct"
base = "{pair}/base"
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
name = "ties"
[budget]
evaluations = 3
initial = 1
[engine]
dtype = "float32"
"""


def test_a_grid_of_ties_merges_is_evaluated(tmp_path: Path) -> None:
    run_file, run_dir, address = tmp_path / "run.toml", tmp_path / "run", free_address()
    run_file.write_text(RUN.format(pair=demo_folder()))
    master_log, worker_log = tmp_path / "master.log", tmp_path / "worker.log"
    with (
        started("apbmm-master", run_file, "--run-dir", run_dir, "--bind", address, log=master_log)
        as master,
        started(
            "apbmm-worker", "--gpu", "cpu", "--master", address, "--state", tmp_path / "state",
            "--scratch", tmp_path / "scratch", log=worker_log,
            env={"APBMM_LOCK_DIR": str(tmp_path / "locks")},
        ),
    ):  # fmt: skip
        assert master.wait(500) == 0, master_log.read_text() + worker_log.read_text()
    run_state = RunState().replay(read_journal(run_dir))
    assert len(run_state.completed) == 3
    assert run_state.digests["base"] not in (
        run_state.digests["thinking"],
        run_state.digests["instruct"],
    )
    tokens = {}
    for name in ("thinking", "instruct", *run_state.completed):
        body = run_state.evaluations[name].body
        assert isinstance(body, Evaluated)
        tokens[name] = body.benchmarks["chain"].metrics["tokens"]
    vectors = {name: run_state.evaluations[name].vector for name in run_state.completed}
    assert vectors["e0001"] == (0.05, 1.0)
    assert len(set(vectors.values())) == 3
    # A small step from the base, which is neither of the sources, and a long one.
    assert tokens["instruct"] + 1 < tokens["e0001"] < tokens["thinking"] - 1
    assert vectors["e0002"][0] == 0.85
    assert tokens["e0002"] > tokens["e0001"] + 1
