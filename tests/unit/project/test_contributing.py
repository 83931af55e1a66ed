"""What CONTRIBUTING says one file is enough for: a merge method is seen wherever it has to be."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import apbmm.check.view
from apbmm.check.inspect import Inspection
from apbmm_common.errors import RunFileError
from apbmm_common.merge_methods import METHODS, MergeMethod, registry
from apbmm_common.run_file import parse_run
from apbmm_master.search.methods import create, names
from apbmm_worker.merging.merge import write_merge
from apbmm_worker.merging.run_merges import RunMerge, merge_of
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from apbmm_worker.merging.stream import MergeStream, to_bytes
from commands import environment
from rehearsal_runs import run_spec, run_table
from tiny_checkpoints import load_tensors, write_related, write_tiny_pair

NAME = "nearswap"
VECTOR = (0.5, 0.01)  # weight and threshold


@pytest.fixture(scope="module")
def example() -> Iterator[MergeMethod]:
    """The example's entry, which is gone again after the tests of this module."""
    module = importlib.import_module("example_merge_method")
    yield module.METHOD
    del registry._methods[NAME]
    del sys.modules["example_merge_method"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> VerifiedSources:
    folder = tmp_path_factory.mktemp("sources")
    thinking, instruct = write_tiny_pair(folder, layers=1)
    base = write_related(instruct, folder / "base", seed=8)
    return verify_sources({"thinking": thinking, "instruct": instruct, "base": base}, None)


@pytest.fixture
def merge(example: MergeMethod, sources: VerifiedSources) -> RunMerge:
    """The merge of one vector of a run that searches with the example."""
    return merge_of(run_spec(algorithm={"name": example.name}), sources, VECTOR)


def expected(sources: VerifiedSources) -> dict[str, torch.Tensor]:
    """The same merge, written down in one line."""
    base, *tuned = (
        load_tensors(sources.checkpoints[r].path) for r in ("base", "thinking", "instruct")
    )
    return {
        name: tensor + VECTOR[0] * sum((t[name] - tensor).clamp(-0.01, 0.01) for t in tuned)
        for name, tensor in base.items()
    }


def test_it_is_named(example: MergeMethod) -> None:
    assert METHODS[NAME] is example
    assert NAME in names()


def test_its_grid_is_a_search_method(example: MergeMethod) -> None:
    search = create(NAME, 36, budget=100)
    points = {tuple(map(float, vector)) for vector in search.ask(100)}
    weights = [(index + 1) / example.grid_weights for index in range(example.grid_weights)]
    assert points == set(itertools.product(weights, (0.01, 0.001)))


def test_a_run_file_may_name_it_and_only_set_what_it_has(example: MergeMethod) -> None:
    spec = parse_run(run_table() | {"algorithm": {"name": NAME}}, "run.toml")
    assert spec.merge_method == NAME
    shown = dict(apbmm.check.view.plan(Inspection(Path("run.toml"), spec)))
    assert shown["merge"].startswith("nearswap of whole models, ")
    for parameters, words in (
        ({"gamma": 0.1}, "merge.parameters: gamma has no effect on nearswap"),
        ({"threshold": 2}, r"merge.parameters: threshold is 2.0, outside \[0, 1\]"),
        ({"threshold": 0.1}, "merge.parameters: threshold is searched by nearswap"),
    ):
        table = run_table() | {"algorithm": {"name": NAME}, "merge": {"parameters": parameters}}
        with pytest.raises(RunFileError, match=words):
            parse_run(table, "run.toml")


def test_a_worker_merges_with_it(merge: RunMerge, sources: VerifiedSources, tmp_path: Path) -> None:
    write_merge(sources, merge.plans, merge.recipe, "thinking", tmp_path / "out")
    result = load_tensors(tmp_path / "out")
    for name, tensor in expected(sources).items():
        torch.testing.assert_close(result[name], tensor)


def test_a_live_engine_is_loaded_with_it(merge: RunMerge, sources: VerifiedSources) -> None:
    result = dict(MergeStream(to_bytes(merge.plans)).tensors())
    for name, tensor in expected(sources).items():
        torch.testing.assert_close(result[name], tensor)


@pytest.mark.slow
def test_the_command_has_its_flags(sources: VerifiedSources, tmp_path: Path) -> None:
    """In a process of its own, where the example is there before the command is built."""
    program = "import example_merge_method, apbmm.cli; apbmm.cli.main()"
    paths = [sources.checkpoints[role].path for role in ("thinking", "instruct", "base")]

    env = {"PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", program, "merge", *map(str, arguments)]
        return subprocess.run(
            line, env=environment(env), capture_output=True, text=True, check=False
        )

    assert "--threshold" in command("--help").stdout
    arguments = (
        "--source", paths[0], "--source", paths[1], "--base", paths[2], "--method", NAME,
        "--weight", VECTOR[0], "--out", tmp_path / "out",
    )  # fmt: skip
    refused = command(*arguments, "--threshold", 2)
    assert "--threshold is 2.0, outside [0, 1]" in refused.stderr
    done = command(*arguments, "--threshold", VECTOR[1])
    assert done.returncode == 0, done.stderr
    result = load_tensors(tmp_path / "out")
    for name, tensor in expected(sources).items():
        torch.testing.assert_close(result[name], tensor)
