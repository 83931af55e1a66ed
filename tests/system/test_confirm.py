"""`confirm.at_end` and `apbmm confirm`, with a real master and worker on a rehearsal."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from apbmm.results.confirmation import read_confirmation
from apbmm.results.run_results import read_results
from commands import DEADLINE, called, run, started, wait_until
from free_ports import free_port
from rehearsal_runs import write_run_file
from written_runs import repeated_sums, write_run

pytestmark = pytest.mark.slow
HELD = [{"name": "sums", "adapter": "sums", "path": "/none/sums", "holdout": 0.3}]


def measured_again(log: Path) -> bool:
    """Whether a reference has been measured after the search ended."""
    return "reference thinking" in log.read_text().partition("finished:")[2]


def test_a_front_is_confirmed_by_the_same_worker_and_a_killed_confirmation_goes_on(
    tmp_path: Path,
) -> None:
    folder, address = tmp_path / "run", f"tcp://127.0.0.1:{free_port()}"
    file = write_run_file(tmp_path / "run.toml", benchmarks=HELD, confirm={"at_end": True})
    where = ("--bind", address, "--keys", "none")
    worker = ("--gpu", "rehearsal", "--master", address, "--keys", "none", "--name", "w")
    confirmed = folder / "confirm"
    with started("apbmm-worker", *worker, "--state", tmp_path / "w", log=tmp_path / "worker.log"):
        with started(
            "apbmm-master", file, "--run-dir", folder, *where, log=tmp_path / "master.log"
        ) as master:
            wait_until((confirmed / "journal.sqlite").exists)
            wait_until(lambda: measured_again(tmp_path / "master.log"))
            master.send_signal(signal.SIGKILL)
            master.wait()
        done = run("apbmm", "confirm", folder, *where)
        assert done.returncode == 0, done.stderr
        assert f"join by: apbmm-worker --gpu rehearsal --master {address}" in done.stderr
        again = run("apbmm", "confirm", folder, *where, "--json")
    assert again.returncode == 0, again.stderr
    search = read_results(folder)
    found = read_confirmation(search)
    assert found is not None
    front = {each.id for each in search.front}
    assert {merge.id for merge in found.merges} == front | {"thinking", "instruct"}
    for each in found.run.evaluations:  # outside the search, and nothing measured twice
        assert each.attempts <= 2
        assert each.id in front | {"thinking", "instruct"}
    assert len(search.completed) == search.spec.budget.evaluations
    shown = json.loads(again.stdout)
    assert shown["hypervolume"] == {
        "search": search.hypervolume,
        "confirmed": found.run.hypervolume,
    }
    by_id = {merge["id"]: merge for merge in shown["merges"]}
    for merge in found.merges:
        measured = by_id[merge.id]["confirmed"]["benchmarks"]["sums"]
        assert (
            measured["metrics"]["accuracy"]["value"]
            == merge.confirmed.benchmarks["sums"].metrics["accuracy"]
        )
        assert by_id[merge.id]["holds"] == merge.holds
    said = f"of {len(front)} confirmed members of the front still hold"
    assert said in done.stdout
    assert said in called("status", folder).stdout
    status = json.loads(called("status", folder, "--json").stdout)
    assert status["confirmation"]["holds"] == {n: by_id[n]["holds"] for n in front}


def test_the_searchs_own_questions_are_asked_again_with_other_draws(tmp_path: Path) -> None:
    folder, address = tmp_path / "run", f"tcp://127.0.0.1:{free_port()}"
    tables = {**repeated_sums(2), "confirm": {"repeats": 5, "at_end": True}}
    file = write_run_file(tmp_path / "run.toml", **tables)
    where = ("--bind", address, "--keys", "none")
    worker = ("--gpu", "rehearsal", "--master", address, "--keys", "none", "--name", "w")
    with (
        started("apbmm-worker", *worker, "--state", tmp_path / "w", log=tmp_path / "worker.log"),
        started(
            "apbmm-master", file, "--run-dir", folder, *where, log=tmp_path / "master.log"
        ) as master,
    ):
        assert master.wait(DEADLINE) == 0, (tmp_path / "master.log").read_text()
    search = read_results(folder)
    found = read_confirmation(search)
    assert found is not None
    (asked,) = found.run.spec.benchmarks
    assert (asked.repeats, asked.asked_before) == (5, 2)
    for merge in found.merges:
        before, after = merge.search.benchmarks["sums"], merge.confirmed.benchmarks["sums"]
        assert (before.answers, after.answers) == (200, 500)
        figure = after.figure("accuracy")
        assert figure is not None
        assert figure.low is not None
    assert any(m.confirmed.benchmarks["sums"].spreads["accuracy"].within for m in found.merges)
    status = called("status", folder).stdout
    assert "sums (100 questions x 5)" in status
    assert "the questions are those of the search, with answers drawn anew" in status


def test_what_cannot_be_confirmed_is_said(tmp_path: Path) -> None:
    shown = called("confirm", tmp_path)
    assert shown.returncode == 2
    assert "not a run directory" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_run_without_a_front_is_refused_before_anything_is_said_or_started(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path / "run", [], budget=1, benchmarks=HELD)
    for workers in ((), ("--gpus", "cpu")):
        shown = called("confirm", folder, "--keys", "none", *workers)
        assert shown.returncode == 2
        assert shown.stdout == ""
        assert shown.stderr.splitlines() == [
            "error: the run has no front yet",
            "hint: confirm it when merges have been measured",
        ]
    assert not (folder / "confirm").exists()


def test_a_run_is_found_by_its_name(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "first", [(0.5, 0.5), (0.2, 0.8)])
    for named in (("first",), ()):  # the latest, where none is named
        shown = called("confirm", *named, "--keys", "none", cwd=tmp_path)
        assert shown.returncode == 2
        assert "the run file keeps no questions to confirm on" in shown.stderr
