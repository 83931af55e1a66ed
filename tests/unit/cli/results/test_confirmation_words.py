"""What is said of a confirmation that has not measured everything."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apbmm.dashboard.followed_run import FollowedRun
from apbmm.dashboard.run_page import status
from apbmm.results.confirmation import Confirmation, common_falls, conclusion, read_confirmation
from apbmm.results.run_results import RunResults, read_results
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.run_start.confirmation import confirm_folder
from apbmm_master.journal.storage.store import read_journal
from merged_runs import ENDS, write_confirmation
from merged_runs import POINTS as MERGES
from written_runs import answered, measured, write_journal, write_run

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


POORER = {
    "thinking": answered([1.0, 1.0, 1.0, 0.0], [800, 900, 1000, 990]),
    "instruct": answered([0.0, 0.0, 0.0, 0.0], [50, 60, 70, 80]),
}


@pytest.mark.parametrize(
    ("accuracies", "ends", "said"),
    [
        ((0.25, 0.5), ENDS, "The best of many measurements have been lucky"),
        ((0.25, 0.5), POORER, "That is of the questions: compare merges with sources"),
        ((0.25, 1.0), POORER, ""),  # not all fall
        ((0.25,), POORER, ""),
    ],
)
def test_a_fall_of_all_merges_is_said_with_what_the_sources_did(
    tmp_path: Path, accuracies: tuple[float, ...], ends: dict[str, Evaluated], said: str
) -> None:
    folder = write_run(tmp_path / "run", MERGES[:2], ends=ENDS)
    again = [
        answered([float(n < 4 * share) for n in range(4)], [t] * 4)
        for share, t in zip(accuracies, (120, 300), strict=False)
    ]
    write_confirmation(folder, again, ends)
    search = read_results(folder)
    found = read_confirmation(search)
    assert found is not None
    falls = common_falls(search, found)
    assert len(falls) == bool(said)
    for line in falls:
        assert said in line
        assert "all 2 confirmed merges are poorer in accuracy than in the search" in line
        assert "37.5% in place of 62.5% on average; the sources: " in line
        assert line in conclusion(search, found)


def test_a_merge_that_does_not_hold_is_told_what_beats_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", MERGES[:2], ends=ENDS)
    write_confirmation(folder, [MERGES[0], answered([1.0, 0.0, 0.0, 0.0], [900] * 4)], ENDS)
    found = read_confirmation(read_results(folder))
    assert found is not None
    assert {m.id: m.beaten_by for m in found.merges if m.beaten_by} == {"e0002": ("e0001",)}


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
