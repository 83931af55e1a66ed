"""`apbmm pick` as a person and a script meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from commands import called
from merged_runs import write_confirmation
from written_runs import measured, write_run

POINTS = [(0.1, 0.95), (0.6, 0.7), (0.9, 0.2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("pick") / "runs" / "one", POINTS)


def test_the_latest_run_for_people(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parents[1])
    shown = called("pick", "--min-accuracy", 0.5, "--all")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == "REHEARSAL: the measurements are invented"
    assert lines[2:5] == [
        "limits: accuracy ≥ 50.0%",
        "e0002: the cheapest in tokens of the 2 of 3 merges within the limits",
        "  70% of thinking's accuracy for 37% of its tokens",
    ]
    assert "thinking's weight in layers 0 to 3" in shown.stdout
    assert [line.split()[:2] for line in lines if line.strip().startswith(("1 ", "2 "))] == [
        ["1", "e0002"],
        ["2", "e0003"],
    ]


def test_every_figure_of_the_json_is_the_journals(folder: Path) -> None:
    printed = called("pick", folder, "--json", "--all")
    whole = json.loads(printed.stdout)
    run_state = RunState().replay(read_journal(folder))
    assert (whole["schema"], whole["run"], whole["rehearsal"]) == (1, run_state.run, True)
    for each in [whole["pick"], *whole["ranked"], *whole["references"].values()]:
        theirs = run_state.evaluations[each["id"]]
        assert tuple(each["vector"]) == theirs.vector
        body = theirs.body.benchmarks["sums"]  # type: ignore[union-attr]
        values = {name: f["value"] for name, f in each["benchmarks"]["sums"]["metrics"].items()}
        assert values == body.metrics
        assert {name: figure["value"] for name, figure in each["mean"].items()} == body.metrics
        assert each["seconds"] == theirs.seconds
    assert whole["ranked"][0] == whole["pick"]
    assert len(whole["ranked"]) == 3


def test_where_nothing_fits_the_exit_code_says_so(folder: Path) -> None:
    printed = called("pick", folder, "--max-tokens", 120, "--json")
    assert printed.returncode == 1
    whole = json.loads(printed.stdout)
    assert whole["pick"] is None
    assert [each["id"] for each in whole["nearest"]] == ["e0001"]
    shown = called("pick", folder, "--max-tokens", 120)
    assert shown.returncode == 1
    assert (
        "instruct itself is within the limits\n"
        "nothing fits: none of 3 merges is within all limits; the nearest:\n"
    ) in shown.stdout


def test_a_merge_that_is_not_confirmed_is_told_from_those_that_are(tmp_path: Path) -> None:
    nothing_kept = write_run(tmp_path / "other", POINTS)
    assert "apbmm confirm" not in called("pick", nothing_kept, "--min-accuracy", 0.5).stdout
    held = {"name": "sums", "adapter": "sums", "path": "/none/sums", "holdout": 0.3}
    folder = write_run(tmp_path / "run", POINTS, benchmarks=[held])
    unknown = called("pick", folder, "--min-accuracy", 0.5).stdout
    assert f"apbmm confirm {folder} measures it on questions" in unknown.replace("\n", " ")
    write_confirmation(folder, [measured(POINTS[0])])
    shown = called("pick", folder, "--min-accuracy", 0.5).stdout.replace("\n", " ")
    assert "e0002 is not among the confirmed merges (e0001): apbmm confirm" in shown
    assert "--eval e0002 adds it" in shown


def test_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = called("pick")
    assert (shown.returncode, shown.stderr.splitlines()[0]) == (
        2,
        "error: there is no run under runs/",
    )
