"""What is read from a run directory, against the journal."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from apbmm.results.run_results import read_results
from apbmm_common.errors import UsageError
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.assessment.scores import scores_of
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import Journal, read_journal, read_outcomes
from protocol_world import measurement
from written_runs import LIMIT, answered, write_run

POINTS = [[0.2, 0.9], [0.6, 0.6], [0.5, 0.5], [0.9, 0.1]]


def test_a_finished_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", POINTS)
    found = read_results(folder)
    run_state = RunState().replay(read_journal(folder))
    scores = scores_of(run_state)
    assert (found.condition, found.ended) == ("finished", run_state.finished)
    assert (found.run, found.rehearsal, found.trouble) == (run_state.run, True, "")
    assert {each.id: each.objectives for each in found.front} == scores.front
    assert [each.objectives for each in found.front] == sorted(scores.front.values())
    assert found.hypervolume == scores.hypervolume
    assert [each.id for each in found.completed] == run_state.completed
    assert [each.hypervolume for each in found.completed][-1] == scores.hypervolume
    assert set(found.references) == {"thinking", "instruct"}
    assert found.references["thinking"].objectives == pytest.approx((1.0, 0.0))
    for each in found.evaluations:
        theirs = run_state.evaluations[each.id]
        assert (each.vector, each.state, each.seconds, each.worker) == (
            theirs.vector, theirs.state, theirs.seconds, theirs.worker,
        )  # fmt: skip
        if isinstance(theirs.body, Evaluated):
            assert each.benchmarks["sums"].metrics == theirs.body.benchmarks["sums"].metrics
        else:
            assert not each.benchmarks
    assert found.completed[0].layer_weights == run_state.space.layer_weights(
        found.completed[0].vector
    )


def test_a_pause_is_no_time_of_the_run_nor_of_its_workers(tmp_path: Path) -> None:
    found = read_results(write_run(tmp_path / "run", POINTS[:2], budget=4, pause=1000.0))
    assert found.condition == "unfinished"
    assert found.ended == ""
    assert all(each.gpu_seconds == pytest.approx(10.0) for each in found.completed)
    held = found.evaluation("e0003")
    assert (held.state, held.attempts, held.done_at) == ("active", 1, None)
    assert held.begun_at is not None
    assert held.gpu_seconds == pytest.approx(0.0)  # it was leased by the last event before
    assert found.last_at - found.begun_at > 1000.0
    assert found.seconds < 100.0
    assert sum(e.gpu_seconds for e in found.evaluations) == found.gpu_seconds


def test_answers_give_intervals(tmp_path: Path) -> None:
    ends: dict[str, Evaluated | tuple[float, float]] = {
        "thinking": answered([1.0] * 4, [800, LIMIT, 900, 700]),
        "instruct": (0.25, 100.0),
    }
    folder = write_run(tmp_path / "run", [answered([1.0, 0, 1, 0], [5, 7, 300, 9])], ends=ends)
    found = read_results(folder)
    rows = read_outcomes(folder)
    assert {row.evaluation for row in rows} == {"thinking", "e0001"}
    assert [row.tokens for row in read_outcomes(folder, "e0001")] == [5, 7, 300, 9]
    e0001 = found.evaluation("e0001")
    assert e0001.tokens == 321
    accuracy, tokens = e0001.figure("accuracy"), e0001.figure("tokens", ["sums"])
    assert accuracy is not None
    assert tokens is not None
    assert accuracy.value == 0.5
    assert accuracy.low == pytest.approx(0.15, abs=0.01)
    assert tokens.value == 321 / 4
    assert tokens.standard_error == pytest.approx(73.3, abs=0.1)
    assert found.references["thinking"].benchmarks["sums"].truncated == 1
    assert e0001.figure("accuracy", ["other"]) is None


def test_a_copy_reads_as_the_original(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", POINTS)
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    assert len(read_results(copy / "journal.sqlite").front) == 3


def test_a_run_without_objectives(tmp_path: Path) -> None:
    begun = read_results(write_run(tmp_path / "begun", [], budget=4))
    assert (begun.front, begun.hypervolume, begun.completed) == ((), 0.0, ())
    ends = {"thinking": (0.5, 1000.0), "instruct": (0.5, 100.0)}
    equal = read_results(write_run(tmp_path / "equal", [measurement(0.4, 50.0)], ends=ends))
    assert "accuracy" in equal.trouble
    assert equal.completed == ()  # no merge is leased after such references
    assert equal.references["thinking"].objectives is None
    assert equal.front == ()


def test_a_run_with_a_master_is_running(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [], budget=4)
    address = tmp_path / "status.sock"
    (folder / "status.json").write_text(json.dumps({"status": f"ipc://{address}"}))
    assert read_results(folder).condition == "unfinished"
    with socket.socket(socket.AF_UNIX) as master:
        master.bind(str(address))
        master.listen()
        assert read_results(folder).condition == "running"


def test_what_holds_no_run_is_named(tmp_path: Path) -> None:
    Journal(tmp_path / "empty").close()
    with pytest.raises(UsageError, match="has not begun"):
        read_results(tmp_path / "empty")
    found = read_results(write_run(tmp_path / "run", POINTS))
    with pytest.raises(UsageError, match="no evaluation e9") as caught:
        found.evaluation("e9")
    assert "apbmm status" in caught.value.hint or "near" in caught.value.hint
