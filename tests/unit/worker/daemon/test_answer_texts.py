from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from apbmm_worker.daemon.answer_texts import RUNS_KEPT, folder_for


def runs(outputs: Path, *names: str) -> None:
    """A folder for each run, the first changed first."""
    for age, name in enumerate(names):
        (outputs / name / "e0001").mkdir(parents=True)
        (outputs / name / "e0001" / "answers.jsonl").write_text("{}")
        os.utime(outputs / name, (1000 + age, 1000 + age))


def test_the_latest_runs_and_this_one_are_kept(tmp_path: Path) -> None:
    names = [f"run-{number}" for number in range(RUNS_KEPT + 3)]
    runs(tmp_path, *names)
    assert folder_for(tmp_path, "run-0") == tmp_path / "run-0"
    kept = {"run-0", *names[-(RUNS_KEPT - 1) :]}
    assert {path.name for path in tmp_path.iterdir()} == kept
    folder_for(tmp_path, "new")
    assert {path.name for path in tmp_path.iterdir()} == kept - {"run-0"}


def test_files_beside_the_runs_and_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    assert folder_for(tmp_path / "outputs", "r") == tmp_path / "outputs" / "r"
    runs(tmp_path, *(f"run-{number}" for number in range(RUNS_KEPT + 1)))
    folder_for(tmp_path, "r")
    assert (tmp_path / "note").read_text() == "mine"


@pytest.mark.parametrize("run", ["..", "."])
def test_no_run_writes_outside(tmp_path: Path, run: str) -> None:
    assert folder_for(tmp_path, run).parent == tmp_path


def test_what_cannot_be_deleted_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs(tmp_path, *(f"run-{number}" for number in range(RUNS_KEPT + 1)))

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert folder_for(tmp_path, "r") == tmp_path / "r"
    assert "run-0: could not be deleted" in caplog.text
