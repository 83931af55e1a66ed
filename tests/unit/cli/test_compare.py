"""`apbmm compare`: Table II of finished runs, and what is not comparable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apbmm.compare.runs import Comparison, compare, read_runs
from apbmm.results.run_results import RunResults
from apbmm.results.words import duration
from apbmm_common.errors import UsageError
from apbmm_master.journal.assessment.first_steps import answers_of_a_merge
from commands import called
from paper_tables import AP_BMM, MOEAD, MOMM, TA, TABLE_III
from written_runs import INSTRUCT, THINKING, measured, write_run


def compared(*folders: Path) -> Comparison:
    return compare(read_runs(folders))


def test_the_papers_table_iii_gives_its_contributions(tmp_path: Path) -> None:
    # One run cannot take fewer than no tokens: another cheap end brings the rows within reach.
    ends = {"thinking": THINKING, "instruct": (0.2, 300.0)}
    methods = {"ap-bmm": AP_BMM, "momm": MOMM, "moead-cmaes": MOEAD, "ta": TA}
    folders = [
        write_run(
            tmp_path / name, TABLE_III[part, :2].tolist(), ends=ends, algorithm={"name": name}
        )
        for name, part in methods.items()
    ]
    found = compared(*folders)
    assert [row.method for row in found.rows] == list(methods)
    assert [row.contribution for row in found.rows] == [7, 3, 1, 1]
    assert found.pooled_front == 12
    assert [row.front for row in found.rows] == [7, 3, 1, 1]
    assert found.rows[0].hypervolume == pytest.approx(1.32867, abs=5e-6)
    assert found.reference_point == (-0.2, -0.2)
    assert [note for note in found.notes if "evaluations, with which" not in note] == []
    assert all(row.state == "finished" for row in found.rows)


def test_spacing_load_and_time_of_the_search(tmp_path: Path) -> None:
    points = [[0.0, 0.9], [0.25, 0.75], [0.75, 0.25], [0.1, 0.1]]
    (row,) = compared(write_run(tmp_path / "a", points)).rows
    # L1 distances to the nearest on the front: 0.4, 0.4, 1.0.
    assert row.spacing == pytest.approx(np.std([0.4, 0.4, 1.0], ddof=1))
    assert (row.front, row.done, row.failed, row.budget) == (3, 4, 0, 4)
    # The initial design is one evaluation, so the search took three of 10 s, without a gap.
    assert row.seconds == pytest.approx(30.0)
    assert row.load_rate == pytest.approx(1.0)


def test_time_without_a_master_is_no_time_of_the_search(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [[0.5, 0.5]] * 3, budget=4, pause=1000.0)
    (row,) = compared(folder).rows
    assert row.state == "unfinished"
    assert row.seconds == pytest.approx(20.0)


def test_an_unfinished_run_is_shown_with_what_it_has(tmp_path: Path) -> None:
    begun = write_run(tmp_path / "begun", [], budget=4)
    whole = write_run(tmp_path / "whole", [[0.5, 0.5], [0.6, 0.6]])
    rows = compared(begun, whole).rows
    assert [row.state for row in rows] == ["unfinished", "finished"]
    assert (rows[0].hypervolume, rows[0].contribution, rows[0].done) == (None, None, 0)
    assert rows[1].contribution == 1


def test_runs_of_different_lengths_are_told(tmp_path: Path) -> None:
    points = [[0.5, 0.5], [0.2, 0.6], [0.6, 0.2]]
    runs = read_runs(
        [write_run(tmp_path / str(count), points[:count], seed=count) for count in (3, 1)]
    )
    (note,) = compare(runs).notes
    assert note == "the runs have 1 to 3 evaluations, with which hypervolumes grow"
    assert not compare(runs[:1]).notes


def test_runs_are_scaled_by_one_measurement_of_the_references(tmp_path: Path) -> None:
    """The same raw metrics are the same point, whatever a run's own references came to."""
    drifted = {"thinking": (0.8, 1100.0), "instruct": INSTRUCT}
    one = write_run(tmp_path / "one", [[0.5, 0.5]])
    body = measured([0.5, 0.5]).benchmarks["sums"]
    own = (1100.0 - body.metrics["tokens"]) / (1100.0 - 100.0)
    two = write_run(tmp_path / "two", [[0.5, own]], ends=drifted)
    found = compared(one, two)
    assert found.rows[0].hypervolume == pytest.approx(found.rows[1].hypervolume)
    assert found.rows[0].hypervolume == pytest.approx(0.49)
    assert found.notes == (
        f"{two} is scaled by the references of {one}, its own have thinking sums tokens 1100 for "
        "1000",
    )


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"generation": {"max_tokens": 65}}, "generation.max_tokens"),
        (
            {"benchmarks": [{"name": "sums", "adapter": "sums", "path": "p", "questions": 3}]},
            "benchmarks.sums.questions",
        ),
        ({"reference_point": [0.0, 0.0]}, "reference_point.0, reference_point.1"),
    ],
)
def test_runs_that_measure_something_else_are_refused(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    runs = read_runs([write_run(one, [[0.5, 0.5]]), write_run(two, [[0.5, 0.5]], **changes)])
    with pytest.raises(UsageError, match="do not mean the same") as caught:
        compare(runs)
    assert caught.value.message.splitlines()[1:] == [f"{two} differs from {one} in {key}"]


def with_digests(found: RunResults, digests: dict[str, str]) -> RunResults:
    found.run_state.digests = digests
    return found


def test_rehearsals_of_other_seeds_are_refused_with_the_reason(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / name, [[0.5, 0.5]]) for name in ("one", "two")])
    for run, digest in zip(runs, "ab", strict=True):
        with_digests(run, {"rehearsal": digest})
    with pytest.raises(UsageError, match=r"contents\.rehearsal \(a rehearsal invents .* by seed"):
        compare(runs)


def test_other_contents_are_refused_and_another_base_is_told(tmp_path: Path) -> None:
    one, two = (write_run(tmp_path / name, [[0.5, 0.5]]) for name in ("one", "two"))
    contents = {"thinking": "t", "instruct": "i", "base": "i", "benchmark.sums": "q"}
    runs = [with_digests(r, dict(contents)) for r in read_runs([one, two])]
    assert compare(runs).notes == ()
    runs[1].run_state.digests["base"] = "b"
    assert compare(runs).notes == (f"{two} differs from {one} in contents.base",)
    runs[1].run_state.digests |= {"thinking": "x", "benchmark.sums": "y"}
    with pytest.raises(UsageError, match=r"in contents\.benchmark\.sums, contents\.thinking "):
        compare(runs)


def test_another_place_and_another_engine_are_no_obstacle(tmp_path: Path) -> None:
    moved = [{"name": "sums", "adapter": "sums", "path": "/elsewhere"}]
    one = write_run(tmp_path / "one", [[0.5, 0.5]])
    two = write_run(
        tmp_path / "two", [[0.5, 0.5]], benchmarks=moved, algorithm={"name": "sobol"}, seed=9
    )
    assert compared(one, two).notes == ()
    three = write_run(tmp_path / "three", [[0.5, 0.5]], engine={"dtype": "float32"})
    assert compared(one, three).notes == (f"{three} differs from {one} in engine.dtype",)


def test_the_command_prints_both_forms_and_says_rehearsal(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [[0.5, 0.5], [0.2, 0.9]])
    two = write_run(tmp_path / "two", [[0.4, 0.6]], budget=3, algorithm={"name": "sobol"})
    shown = called("compare", one, two, env={"COLUMNS": "200"})
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout
    assert text.startswith("REHEARSAL")
    assert "1/3" in text
    assert "unfinished" in text
    printed = called("compare", one / "journal.sqlite", two, "--json")
    whole = json.loads(printed.stdout)
    assert printed.stdout.count("\n") == 1
    assert whole["rehearsal"] is True
    assert [row["method"] for row in whole["runs"]] == ["uniform", "sobol"]
    assert [row["contribution"] for row in whole["runs"]] == [2, 1]


def test_folders_without_a_run_are_named_at_once(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "whole", [[0.5, 0.5]])
    empty = tmp_path / "empty"
    empty.mkdir()
    shown = called("compare", whole, empty, tmp_path / "none", whole)
    assert shown.returncode == 2
    *faults, hint = shown.stderr.splitlines()
    assert faults == [
        f"error: {empty}: not a run directory: it holds no journal.sqlite",
        f"{tmp_path}/none: no such run directory",
        f"{whole}: named twice",
    ]
    assert hint.startswith("hint: give the run directory or name of a run")
    assert hint.count("give the run directory") == 1
    nothing = called("compare")
    assert nothing.returncode == 2
    assert "no run to compare" in nothing.stderr


@pytest.mark.parametrize(
    ("seconds", "text"), [(37.25, "37.2 s"), (600.0, "10.0 min"), (35424.0, "9.84 h")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_merges_that_are_stopped_make_runs_no_shorter(tmp_path: Path) -> None:
    """Of the same budget the other run completes more merges."""
    points = [[0.5, 0.5], [0.2, 0.6], [0.6, 0.2]]
    runs = read_runs([write_run(tmp_path / str(count), points[:count]) for count in (3, 2)])
    state = runs[1].run_state
    state.spending.answers_in_part = answers_of_a_merge(state)
    assert compare(runs).notes == ()
