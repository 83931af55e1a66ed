"""`apbmm run` with invented measurements: to its end, resumed, interrupted, refused."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apbmm.installed import on_cpu
from apbmm_common.datasets.demo_pair import demo_folder
from apbmm_common.process.signals import SAME_REQUEST_SECONDS
from apbmm_common.protocol.curve_keys import new_master, new_worker
from apbmm_master.journal.assessment.scores import scores_of
from apbmm_master.journal.run_start.confirmation import confirm_folder
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from apbmm_worker.daemon.options import default_name
from commands import (
    DEADLINE,
    REPOSITORY,
    called,
    free_address,
    processes_naming,
    run,
    started,
    wait_until,
    write_rehearsal,
)
from written_runs import write_run

pytestmark = pytest.mark.slow


def test_it_ends_with_the_front_and_the_same_command_goes_on(tmp_path: Path) -> None:
    run_file = write_rehearsal(tmp_path / "run.toml", seconds=0.1)
    shown = run("apbmm", "run", run_file, "--workers", 2, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    *_, finished, place, following, _, pick, _, report = shown.stdout.splitlines()
    assert following == "next:"
    assert pick == "  apbmm pick runs/trial"
    assert report == "  apbmm report runs/trial"
    assert finished == "finished: 6 evaluations completed"
    assert place == "run directory: runs/trial"
    assert shown.stdout.count("Pareto front") == 1
    assert "REHEARSAL: the measurements are invented" in shown.stdout
    name = default_name("rehearsal")
    logs = tmp_path / "runs" / "trial" / "workers"
    assert {log.parent.name for log in logs.glob("*/worker.log")} == {f"{name}-1", f"{name}-2"}

    over = run("apbmm", "run", run_file, cwd=tmp_path)
    assert over.returncode == 0, over.stderr
    assert "finished: 6 evaluations completed" in over.stdout
    assert "joined" not in over.stdout
    assert over.stdout.splitlines()[-1] == (
        "this run had finished before, and no worker was started: "
        f"raise budget.evaluations in {run_file}, and the same command goes on"
    )

    write_rehearsal(run_file, seconds=0.1, evaluations=8)
    more = run("apbmm", "run", run_file, cwd=tmp_path)
    assert "finished: 8 evaluations completed" in more.stdout
    assert processes_naming(str(run_file)) == []


def test_a_run_file_of_models_is_rehearsed_in_a_run_directory_of_its_own(tmp_path: Path) -> None:
    short = (demo_folder() / "demo.toml").read_text().replace("evaluations = 40", "evaluations = 9")
    for part in ("thinking", "instruct", "problems"):
        (tmp_path / part).symlink_to(demo_folder() / part)
    (tmp_path / "run.toml").write_text(short)
    command = ("apbmm", "run", "run.toml", "--rehearsal", "--workers", 2)
    shown = run(*command, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "REHEARSAL: the measurements are invented" in shown.stdout
    assert "run directory: runs/demo-rehearsal" in shown.stdout
    assert "finished: 9 evaluations completed" in shown.stdout
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["demo-rehearsal"]
    again = run(*command, cwd=tmp_path)
    assert "raise budget.evaluations in run.toml" in again.stdout


def test_as_json_every_line_names_run_and_evaluation(tmp_path: Path) -> None:
    run_file = write_rehearsal(tmp_path / "run.toml", seconds=0.1)
    shown = run("apbmm", "run", run_file, "--log-format", "json", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    events = [json.loads(line) for line in shown.stdout.splitlines()]
    runs = {event.get("run") for event in events[1:]}
    assert len(runs) == 1
    assert (events[-1]["event"], events[-1]["finished"]) == ("end", True)
    assert {e["evaluation"] for e in events if e["event"] == "result"} >= {"e0001"}
    (log,) = (tmp_path / "runs" / "trial" / "workers").glob("*/worker.log")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    done = [line for line in lines if "done after" in line["message"]]
    assert done
    assert all(line["message"].startswith(line["evaluation"]) for line in done)
    assert {line["run"] for line in done} == runs


HANGS = """
import os
os.environ["APBMM_REHEARSAL_FAULT"] = "hang:thinking"
"""
"""For Python's startup. `apbmm run` passes its own settings on, and nothing else of apbmm."""


def work_in_hand(folder: Path) -> bool:
    """Whether a worker holds an evaluation of the run in ``folder``."""
    if not (folder / "journal.sqlite").exists():
        return False
    return any(True for _ in RunState().replay(read_journal(folder)).active_attempts())


@contextlib.contextmanager
def long_run(run_file: Path, run_dir: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A rehearsal of minutes, begun by ``apbmm run``, once its worker has joined."""
    write_rehearsal(run_file, seconds=3, evaluations=30)
    with started("apbmm", "run", run_file, "--run-dir", run_dir, log=log) as running:
        wait_until(lambda: "joined" in log.read_text())
        yield running


def test_ctrl_c_stops_all_together_and_a_second_master_is_refused(tmp_path: Path) -> None:
    run_file, run_dir, log = (tmp_path / name for name in ("run.toml", "run", "run.log"))
    with long_run(run_file, run_dir, log) as running:
        second = run("apbmm", "run", run_file, "--run-dir", run_dir)
        assert second.returncode == 1
        assert "another master is running this run" in second.stderr
        assert second.stdout == ""
        running.send_signal(signal.SIGINT)
        assert running.wait(DEADLINE) == 130
    text = log.read_text()
    assert "finishing the evaluations in hand; Ctrl-C again stops at once" in text
    assert "not finished: the same command goes on from here" in text
    scores = scores_of(RunState().replay(read_journal(run_dir)))
    assert ("next:" in text) == bool(scores.front)  # a merge may have been measured by then
    assert "Traceback" not in text
    assert processes_naming(str(run_file)) == []


def test_a_killed_worker_is_named_with_its_signal_and_no_line_of_its_log(tmp_path: Path) -> None:
    run_file, run_dir, log = (tmp_path / name for name in ("run.toml", "run", "run.log"))
    with long_run(run_file, run_dir, log) as running:
        for worker in processes_naming(str(run_dir / "workers")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        assert running.wait(DEADLINE) == 1
    name = default_name("rehearsal")
    assert log.read_text().splitlines()[-2] == (
        f"error: every worker has ended: worker {name}-1 was killed by signal 9 "
        "(SIGKILL; perhaps the host ran out of memory)"
    )


def test_its_front_is_confirmed_by_workers_of_its_own(tmp_path: Path) -> None:
    held = "[confirm]\nholdout = 0.3"
    run_file = write_rehearsal(tmp_path / "run.toml", seconds=0.1, extra=held)
    run_dir = tmp_path / "run"
    searched = run("apbmm", "run", run_file, "--run-dir", run_dir)
    assert searched.returncode == 0, searched.stderr
    confirmed = run("apbmm", "confirm", run_dir, "--gpus", "cpu")
    assert confirmed.returncode == 0, confirmed.stderr
    assert "confirmed members of the front still hold" in confirmed.stdout
    assert processes_naming(str(run_dir)) == []


def test_a_stopped_confirmation_names_the_command_that_goes_on(tmp_path: Path) -> None:
    held = "[confirm]\nholdout = 0.3"
    run_file = write_rehearsal(tmp_path / "run.toml", extra=held)
    run_dir, log = tmp_path / "run", tmp_path / "confirm.log"
    searched = run("apbmm", "run", run_file, "--run-dir", run_dir)
    assert searched.returncode == 0, searched.stderr
    command = ("confirm", run_dir, "--gpus", "cpu", "--workers", 1)
    (tmp_path / "sitecustomize.py").write_text(HANGS)
    python = {"PYTHONPATH": str(tmp_path)}
    with started("apbmm", *command, log=log, env=python) as confirming:
        wait_until(lambda: work_in_hand(confirm_folder(run_dir)))
        confirming.send_signal(signal.SIGINT)
        wait_until(lambda: "finishing the evaluations in hand" in log.read_text())
        time.sleep(SAME_REQUEST_SECONDS)
        confirming.send_signal(signal.SIGINT)
        assert confirming.wait(DEADLINE) == 130
    goes_on = f"are still to be measured: {shlex.join(['apbmm', *map(str, command)])} goes on"
    assert log.read_text().splitlines()[-1].endswith(goes_on)


def test_a_confirmation_asked_for_after_the_end_gets_workers(tmp_path: Path) -> None:
    held = "[confirm]\nholdout = 0.3"
    run_file = write_rehearsal(tmp_path / "run.toml", seconds=0.1, extra=held)
    run_dir = tmp_path / "run"
    searched = run("apbmm", "run", run_file, "--run-dir", run_dir)
    assert searched.returncode == 0, searched.stderr
    write_rehearsal(run_file, seconds=0.1, extra=f"{held}\nat_end = true")
    confirmed = run("apbmm", "run", run_file, "--run-dir", run_dir)
    assert confirmed.returncode == 0, confirmed.stderr
    assert "confirmed members of the front still hold" in confirmed.stdout
    assert "had finished before" not in confirmed.stdout


def test_with_keys_the_workers_need_theirs(tmp_path: Path) -> None:
    run_file = write_rehearsal(tmp_path / "run.toml", seconds=0.1)
    keys = new_master(tmp_path / "keys")
    arguments = ("run", run_file, "--run-dir", tmp_path / "run", "--keys", keys.folder)
    refused = run("apbmm", *arguments)
    assert refused.returncode == 2
    worker = default_name("rehearsal") + "-1"
    assert f"has a master's key, but none for {worker}" in refused.stderr
    assert not (tmp_path / "run").exists()

    new_worker(keys, worker)
    everywhere = free_address().replace("127.0.0.1", "0.0.0.0")
    served = run("apbmm", *arguments, "--bind", everywhere)
    assert served.returncode == 0, served.stderr
    assert "workers of other hosts join by: apbmm-worker --gpu rehearsal" in served.stdout


def test_what_the_master_refuses_starts_no_worker(tmp_path: Path) -> None:
    run_file = write_rehearsal(tmp_path / "run.toml")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        shown = run("apbmm", "run", run_file, "--bind", address, cwd=tmp_path)
    assert shown.returncode == 2
    assert f"cannot listen on {address}: Address already in use" in shown.stderr
    assert "--bind" in shown.stderr
    assert not (tmp_path / "runs" / "trial" / "workers").exists()


def test_a_run_to_learn_from_is_found_by_its_name(tmp_path: Path) -> None:
    run_file = write_rehearsal(tmp_path / "run.toml", seconds=0.1)
    write_run(tmp_path / "runs" / "first", [], budget=1)
    shown = run("apbmm", "run", run_file, "--learn-from", "first", cwd=tmp_path)
    assert shown.returncode == 2
    assert "--learn-from runs/first: nothing to learn" in shown.stderr
    unknown = run("apbmm", "run", run_file, "--learn-from", "another", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "error: another: no such run directory" in unknown.stderr.splitlines()
    assert "--learn-from takes the run directory or name" in unknown.stderr
    assert not (tmp_path / "runs" / "trial").exists()


def test_a_run_file_with_faults_is_refused_as_check_refuses_it(tmp_path: Path) -> None:
    run_file = REPOSITORY / "examples" / "qwen3-4b-paper.toml"
    checked = called("check", run_file)
    shown = called("run", run_file, "--gpus", "cpu", cwd=tmp_path)
    assert shown.returncode == checked.returncode == 2
    assert shown.stderr == checked.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this host may have a card")
def test_a_host_without_a_card(tmp_path: Path) -> None:
    run_file = REPOSITORY / "examples" / "demo_pair" / "demo.toml"
    shown = called("run", run_file, "--gpus", "all", cwd=tmp_path)
    assert shown.returncode == 2
    assert shown.stderr.splitlines() == [
        "error: no card was found: nvidia-smi names none",
        "hint: --gpus cpu runs the workers on the CPU; apbmm doctor says more",
    ]


@pytest.mark.skipif(not on_cpu(), reason="PyTorch can use cards here")
def test_cards_and_the_cpu_build_of_pytorch(tmp_path: Path) -> None:
    run_file = REPOSITORY / "examples" / "demo_pair" / "demo.toml"
    shown = called("run", run_file, "--gpus", "0", cwd=tmp_path)
    assert shown.returncode == 2
    error, hint = shown.stderr.splitlines()
    assert error == "error: --gpus 0: the CPU build of PyTorch is installed, which uses no card"
    assert hint.startswith("hint: --gpus cpu runs the workers on the CPU; for cards pip install")
    assert shown.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.vllm
def test_what_init_writes_runs_on_the_cpu(tmp_path: Path) -> None:
    """The real engine, on the device that is the default where the CPU build is installed."""
    pair = demo_folder()
    models = [part for name in ("instruct", "thinking") for part in ("--model", pair / name)]
    chain = f"apbmm_demo_chain_arithmetic={pair / 'problems' / 'chain_arithmetic'}"
    trail = f"apbmm_demo_treasure_trail={pair / 'problems' / 'treasure_trail'}"
    benchmarks = ("--benchmark", chain, "--benchmark", trail, "--evaluations", 2)
    made = run("apbmm", "init", tmp_path / "first.toml", *models, *benchmarks)
    assert made.returncode == 0, made.stderr

    command = shlex.split(made.stdout.splitlines()[-1])[1:]
    shown = run("apbmm", *command, "--run-dir", tmp_path / "run", timeout=500)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "1 worker on the CPU with an engine of its own" in shown.stdout
    assert "finished: 2 evaluations completed" in shown.stdout
    assert processes_naming(str(tmp_path / "first.toml")) == []
