"""What is said of a confirmation that has not measured everything."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apbmm.dashboard.followed_run import FollowedRun
from apbmm.dashboard.run_page import status
from apbmm.results.confirmation import Confirmation, conclusion
from apbmm.results.run_results import RunResults, read_results
from apbmm_master.journal.confirmation import confirm_folder
from apbmm_master.journal.store import read_journal
from merged_runs import write_confirmation
from written_runs import measured, write_journal, write_run

POINTS = [(0.1, 0.95), (0.6, 0.7), (0.9, 0.2)]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    return read_results(write_run(tmp_path_factory.mktemp("confirmed") / "run", POINTS))


def test_a_confirmation_that_a_master_measures_is_not_to_be_started_again(
    search: RunResults,
) -> None:
    run = replace(search, front=(), condition="unfinished")
    left = conclusion(search, Confirmation(run, (), 3))[-1]
    assert left == f"3 of 3 are still to be measured: apbmm confirm {search.run_dir} goes on"
    measuring = Confirmation(replace(run, condition="running"), (), 3)
    assert conclusion(search, measuring, "the same command")[-1] == (
        f"being confirmed now, 3 of 3 to go: apbmm status {run.run_dir} shows it"
    )


def test_a_confirmation_without_a_front_has_no_hypervolume(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", POINTS)
    write_confirmation(folder, [measured(POINTS[0])])
    records = read_journal(confirm_folder(folder))
    assert _hypervolume(folder) > 0
    shutil.rmtree(confirm_folder(folder))
    write_journal(confirm_folder(folder), records[:2])
    assert _hypervolume(folder) is None


def _hypervolume(folder: Path) -> Any:
    followed = FollowedRun(folder, "run")
    followed.read()
    return status(followed, followed.results())["confirmed"]["hypervolume"]
