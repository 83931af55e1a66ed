"""A search of merges of three sources for three objectives on real parts, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apbmm_common.protocol.messages import Evaluated, Measured
from apbmm_common.run_file import load_run_file, run_as_toml
from apbmm_common.simplex import row_of
from apbmm_master.journal.assessment.scores import score
from commands import REPOSITORY, called
from demo_pair_runs import run_to_its_end

NAMES = ("thinking", "picker", "instruct")
LAYERS = 12
INITIAL, EVALUATIONS = 4, 6
CHEAP = {"raw_samples": 16, "restarts": 2, "samples": 32}

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def few(run_file: Path) -> Path:
    """The shipped run with a few questions of each benchmark, few merges and quick proposals."""
    spec = load_run_file(REPOSITORY / "examples" / "three-experts.toml")
    benchmarks = tuple(b.model_copy(update={"sample": 30}) for b in spec.benchmarks)
    changes = {
        "benchmarks": benchmarks,
        "algorithm": spec.algorithm.model_copy(update={"settings": CHEAP}),
        "budget": spec.budget.model_copy(update={"evaluations": EVALUATIONS, "initial": INITIAL}),
        "prior": spec.prior.model_copy(update={"questions": 4}),
        "timings": spec.timings.model_copy(update={"beat": 0.2}),
    }
    run_file.write_text(run_as_toml(spec.model_copy(update=changes)), encoding="utf-8")
    return run_file


def test_three_sources_are_merged_measured_and_searched(tmp_path: Path) -> None:
    state, output = run_to_its_end(few(tmp_path / "run.toml"))
    assert len(state.completed) == EVALUATIONS, output
    assert state.references == NAMES
    assert state.space.dimensions == 2 * LAYERS
    assert isinstance(state.evaluations["measure"].body, Measured)
    bodies = {name: state.evaluations[name].body for name in NAMES}
    accuracy = {
        name: body.benchmarks["largest"].metrics["accuracy"]
        for name, body in bodies.items()
        if isinstance(body, Evaluated)
    }
    assert accuracy["picker"] > max(accuracy["thinking"], accuracy["instruct"]) + 0.3
    assert score(state, state.evaluations["thinking"])[::2] == (1.0, 0.0)
    assert score(state, state.evaluations["instruct"]) == (0.0, 0.0, 1.0)
    assert score(state, state.evaluations["picker"])[1] == 1.0
    searched = [state.evaluations[name] for name in state.completed]
    assert [each.purpose for each in searched].count("search") == EVALUATIONS - INITIAL
    for each in searched:
        rows = [row_of(each.vector[begin : begin + 2]) for begin in range(0, 2 * LAYERS, 2)]
        assert all(sum(row) == pytest.approx(1.0) for row in rows)

    run_dir = tmp_path / "run"
    status = json.loads(called("status", run_dir, "--json").stdout)
    assert [len(point["objectives"]) for point in status["front"]] == [3] * len(status["front"])
    assert status["hypervolume"] > 0.0
    picked = called("pick", run_dir)
    assert picked.returncode == 0, picked.stderr
    assert "picker's weight in layers 0 to 11: " in picked.stdout
    front = status["front"][0]["id"]
    exported = called("export", run_dir, "--eval", front, "--out", tmp_path / "out")
    assert exported.returncode == 0, exported.stderr
    assert "bit for bit those that were evaluated" in exported.stdout
