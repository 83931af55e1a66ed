"""Every shipped run file is valid, and a run written as TOML is the same run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from apbmm.check.inspect import inspect
from apbmm.demo.command import DemoOptions, demo_run
from apbmm_common.datasets.demo_pair import demo_folder, uniform_hypervolume
from apbmm_common.errors import RunFileError
from apbmm_common.run_file import AlgorithmSection, RunSpec, load_run_file, run_as_toml
from apbmm_master.run_checks import load_run
from commands import REPOSITORY
from rehearsal_runs import write_run_file

BENCHMARK = {"name": "sums", "adapter": "sums", "path": "/none/sums"}
SHIPPED = sorted((REPOSITORY / "examples").rglob("*.toml"))


def test_there_are_shipped_run_files() -> None:
    assert {path.name for path in SHIPPED} >= {"demo.toml", "qwen3-4b-paper.toml"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_run_file_is_valid(path: Path) -> None:
    assert load_run_file(path).name


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_run_survives_being_written(path: Path, tmp_path: Path) -> None:
    run = load_run_file(path)
    copy = tmp_path / "copy.toml"
    copy.write_text(run_as_toml(run), encoding="utf-8")
    assert load_run_file(copy) == run


def test_odd_strings_and_tables_survive_being_written(tmp_path: Path) -> None:
    strange = 'quote " backslash \\ delete \x7f tab \t newline \n ü 🙂'
    run = RunSpec.model_validate(
        {
            "name": "odd",
            "sources": {"thinking": "/a b", "instruct": "/ü"},
            "benchmarks": [
                {
                    "name": "b",
                    "adapter": "x",
                    "path": "/data",
                    "question_ids": [3, 1],
                    "arguments": {"an odd key": strange, "nested": {"deep": [1, 2.5, True]}},
                }
            ],
            "generation": {"max_tokens": 1, "context": 2, "temperature": 1e-9},
            "engine": {"arguments": {"enforce_eager": True, "swap": 1e30}},
        }
    )
    copy = tmp_path / "copy.toml"
    copy.write_text(run_as_toml(run), encoding="utf-8")
    assert load_run_file(copy) == run


def test_the_papers_run_lacks_nothing_but_the_folders(tmp_path: Path) -> None:
    # A copy, because a checkout may well have the folders.
    copy = tmp_path / "examples" / "run.toml"
    copy.parent.mkdir()
    shutil.copy(REPOSITORY / "examples" / "qwen3-4b-paper.toml", copy)
    found = inspect(copy)
    assert len(found.faults) == 4
    assert all("no such folder" in fault or "is not a folder" in fault for fault in found.faults)
    run = found.spec
    assert run is not None
    assert (run.budget.initial, run.budget.evaluations) == (8, 40)
    assert (run.generation.max_tokens, run.generation.context) == (35000, 48000)
    assert (run.generation.temperature, run.generation.top_p, run.generation.top_k) == (0, 0.95, 20)
    assert [b.questions for b in run.benchmarks] == [None, 100]
    assert run.hypervolume_reference == (-0.2, -0.2)


def test_the_demo_run_takes_what_the_command_line_says() -> None:
    run = demo_run(DemoOptions(evaluations=6, seed=3), None)
    assert (run.seed, run.budget.evaluations, run.budget.initial) == (3, 6, 6)
    assert run.evaluation.kind == "vllm"


def test_a_resumed_demo_keeps_what_it_was_begun_with() -> None:
    begun = demo_run(DemoOptions(evaluations=6, seed=3, rehearsal=True), None)
    assert demo_run(DemoOptions(), begun) == begun
    by_another_method = begun.model_copy(update={"algorithm": AlgorithmSection(name="ap-bmm")})
    assert demo_run(DemoOptions(), by_another_method) == by_another_method
    longer = demo_run(DemoOptions(evaluations=30), begun)
    assert (longer.seed, longer.budget.evaluations, longer.budget.initial) == (3, 30, 6)
    assert longer.evaluation.kind == "rehearsal"


def test_the_pair_is_found_in_the_checkout() -> None:
    assert demo_folder() == REPOSITORY / "examples" / "demo_pair"


def test_the_uniform_hypervolume_is_the_better_of_both_placements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo.toml").touch()
    (tmp_path / "measured.json").write_text(
        '{"uniform_hypervolume": {"interior": {"24": 1.0, "25": 1.2},'
        ' "with_ends": {"24": 1.1, "25": 1.1}}}'
    )
    monkeypatch.setattr("apbmm_common.datasets.demo_pair._PLACES", (tmp_path,))
    assert uniform_hypervolume(24) == 1.1
    assert uniform_hypervolume(25) == 1.2
    assert uniform_hypervolume(26) is None


def nested(levels: int) -> object:
    return {"x": nested(levels - 1)} if levels else 1


@pytest.mark.parametrize(
    ("changes", "guilty", "reason"),
    [
        ({"engine": {"arguments": {"x": "y" * 1_045_000}}}, "engine", "bytes is over the limit"),
        ({"benchmarks": [{**BENCHMARK, "arguments": {"x": nested(16)}}]}, "benchmarks", "nested"),
        (
            {
                "engine": {"arguments": {"x": "y" * 600_000}},
                "prior": {"prompts": "z" * 600_000},
            },
            "all tables",
            "bytes is over the limit",
        ),
    ],
)
def test_a_run_that_workers_cannot_be_told_of_is_refused(
    tmp_path: Path, changes: dict[str, Any], guilty: str, reason: str
) -> None:
    """Not only when the first worker has come."""
    run_file = write_run_file(tmp_path / "run.toml", **changes)
    with pytest.raises(RunFileError, match=f"  {guilty}: workers cannot be told: .*{reason}"):
        load_run(run_file)
    assert any(fault.startswith(f"{guilty}: ") for fault in inspect(run_file).faults)
