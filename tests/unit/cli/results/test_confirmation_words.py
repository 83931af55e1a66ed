"""What is said of a confirmation that has not measured everything."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apbmm.dashboard.followed_run import FollowedRun
from apbmm.dashboard.run_page import status
from apbmm.results.confirmation import Confirmation, changes_in_words, conclusion, read_confirmation
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


def answering(right: Sequence[int], tokens: int, questions: int = 40) -> Evaluated:
    """Right answers to the questions of these numbers."""
    return answered([float(n in right) for n in range(questions)], [tokens] * questions)


SEARCH = [answering(range(30), 120), answering(range(32), 300)]
SOURCES = {"thinking": answering(range(36), 900), "instruct": answering(range(12), 60)}
HARDER = {"thinking": answering(range(26), 900), "instruct": answering(range(4), 60)}
UNEVENLY_HARDER = {"thinking": answering(range(26), 900), "instruct": answering(range(13), 60)}
EASIER = {"thinking": answering(range(40), 900), "instruct": answering(range(28), 60)}


@pytest.mark.parametrize(
    ("right", "ends", "changed", "said"),
    [
        (
            (16, 18),
            SOURCES,
            "all 2 confirmed merges are poorer in accuracy than in the search, "
            "42.5% in place of 77.5% on average; the sources: 60.0% in place of 60.0%",
            "Against the sources they are poorer by 35.0% ± 7.4%, more than chance explains: "
            "the best of many measurements have been lucky. Expect the confirmed figures",
        ),
        (
            (22, 24),
            HARDER,
            "all 2 confirmed merges are poorer",
            "Against the sources they are better by 2.5% ± 7.0%: "
            "compare merges with sources that answered the same questions",
        ),
        (
            (22, 24),
            UNEVENLY_HARDER,
            "all 2 confirmed merges are poorer",
            "Against the sources they are poorer by 8.8% ± 6.6%, which chance explains: "
            "compare merges with sources that answered the same questions",
        ),
        (
            (30, 33),
            EASIER,
            "the 2 confirmed merges differ in accuracy from the search, "
            "78.8% in place of 77.5% on average; the sources: 85.0% in place of 60.0%",
            "the best of many measurements have been lucky",
        ),
        ((22, 32), HARDER, "", ""),  # not all fall
        ((22,), HARDER, "", ""),
    ],
)
def test_merges_are_called_lucky_where_they_lose_more_than_sources_and_chance_explain(
    tmp_path: Path, right: tuple[int, ...], ends: dict[str, Evaluated], changed: str, said: str
) -> None:
    folder = write_run(tmp_path / "run", SEARCH, ends=SOURCES)
    again = [answering(range(n), tokens) for n, tokens in zip(right, (120, 300), strict=False)]
    write_confirmation(folder, again, ends)
    search = read_results(folder)
    found = read_confirmation(search)
    assert found is not None
    changes = changes_in_words(search, found)
    assert len(changes) == bool(said)
    for line in changes:
        assert line.startswith(changed)
        assert said in line
        assert line in conclusion(search, found)


def test_a_change_is_judged_question_by_question_where_the_same_are_asked_again(
    tmp_path: Path,
) -> None:
    """One question in ten is lost by all merges: too few for other questions to tell."""
    lost = [answering(range(4, 30), 120), answering(range(4, 32), 300)]
    folder = write_run(tmp_path / "run", SEARCH, ends=SOURCES)
    write_confirmation(folder, lost, SOURCES)
    (other,) = _changes(folder)
    assert "poorer by 10.0% ± 9.3%, which chance explains" in other
    shutil.rmtree(confirm_folder(folder))
    again = {"name": "sums", "adapter": "sums", "path": "/none/sums", "asked_before": 1}
    write_confirmation(folder, lost, SOURCES, benchmarks=[again])
    (same,) = _changes(folder)
    assert "poorer by 10.0% ± 4.8%, more than chance explains: the best of many" in same


def test_without_single_answers_nobody_is_called_lucky(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", POINTS[:2])
    ends = {"thinking": measured((1.0, 0.0)), "instruct": measured((0.0, 1.0))}
    write_confirmation(folder, [measured((0.0, 0.95)), measured((0.5, 0.7))], ends)
    (line,) = _changes(folder)
    assert line.endswith("; the sources: 50.0% in place of 50.0%")


def test_a_loss_on_other_benchmarks_may_be_of_these(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", SEARCH, ends=SOURCES)
    lost = [_called("fresh", answering(range(n), 120)) for n in (16, 18)]
    ends = {name: _called("fresh", body) for name, body in SOURCES.items()}
    fresh = {"name": "fresh", "adapter": "sums", "path": "/none/fresh"}
    write_confirmation(folder, lost, ends, benchmarks=[fresh])
    (line,) = _changes(folder)
    assert "have been lucky, or other benchmarks suit them less. Expect" in line


def _called(name: str, body: Evaluated) -> Evaluated:
    return Evaluated(benchmarks={name: body.benchmarks["sums"]})


def _changes(folder: Path) -> list[str]:
    search = read_results(folder)
    found = read_confirmation(search)
    assert found is not None
    return changes_in_words(search, found)


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
