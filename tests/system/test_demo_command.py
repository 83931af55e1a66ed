"""`apbmm demo` with invented measurements: to its end, resumed, interrupted and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from apbmm.demo.command import DemoOptions, demo_run, demo_workers, run_demo, search_of
from apbmm.run.processes import WorkersLostError, last_line, run_processes
from apbmm_common.errors import UsageError
from apbmm_common.process.signals import SAME_REQUEST_SECONDS
from apbmm_common.run_file import run_as_toml
from commands import DEADLINE, called, process_naming, processes_naming, run, started, wait_until

pytestmark = pytest.mark.slow


def begin(run_dir: Path, seconds: float) -> None:
    """Begin a demo whose evaluations take so long."""
    spec = demo_run(DemoOptions(evaluations=30, rehearsal=True), None)
    slow = spec.evaluation.model_copy(update={"rehearsal_seconds": seconds})
    run_dir.mkdir()
    uniform = spec.algorithm.model_copy(update={"name": "uniform"})
    spec = spec.model_copy(update={"evaluation": slow, "algorithm": uniform})
    (run_dir / "demo.toml").write_text(run_as_toml(spec))


def status(run_dir: Path) -> dict[str, object]:
    shown = called("status", run_dir, "--json")
    return dict(json.loads(shown.stdout)) if shown.returncode == 0 else {}


@contextmanager
def busy_demo(run_dir: Path, log: Path, seconds: float = 20) -> Iterator[subprocess.Popen[bytes]]:
    """A demo with evaluations in hand, which take so long."""
    begin(run_dir, seconds)
    with started("apbmm", "demo", "--run-dir", run_dir, log=log) as demo:
        wait_until(lambda: status(run_dir).get("running"))
        yield demo


def test_the_demo_ends_with_the_front_and_goes_on_when_asked(tmp_path: Path) -> None:
    arguments = ("demo", "--rehearsal", "--evaluations", 9, "--workers", 1)
    shown = run("apbmm", *arguments, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[-1].startswith("run directory: runs/demo-")
    run_dir = tmp_path / lines[-1].removeprefix("run directory: ")
    assert sum("Pareto front" in line for line in lines) == 1
    assert "9 evaluations" in lines[lines.index("spent: 9/9 evaluations") - 1]
    assert "REHEARSAL" in shown.stdout
    assert (run_dir / "journal.sqlite").exists()
    assert (run_dir / "workers" / "demo-1" / "worker.log").exists()
    assert processes_naming(str(run_dir.name)) == []

    again = run("apbmm", "demo", "--run-dir", run_dir, "--evaluations", 10)
    assert again.returncode == 0, again.stderr
    assert "spent: 10/10 evaluations" in again.stdout

    over = run("apbmm", "demo", "--run-dir", run_dir)
    assert over.returncode == 0, over.stderr
    assert "spent: 10/10 evaluations" in over.stdout

    changed = called("demo", "--run-dir", run_dir, "--seed", 7)
    assert changed.returncode == 2
    assert "seed" in changed.stderr
    assert "Traceback" not in changed.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_drains_and_leaves_no_process(tmp_path: Path, number: int, code: int) -> None:
    log = tmp_path / "demo.log"
    with busy_demo(tmp_path / "run", log, seconds=6) as demo:
        demo.send_signal(number)
        assert demo.wait(DEADLINE) == code
    text = log.read_text()
    assert "finishing the evaluations in hand" in text
    assert "goes on from here" in text
    assert text.splitlines()[-1] == f"run directory: {tmp_path / 'run'}"
    assert "Traceback" not in text
    assert processes_naming(str(tmp_path / "run")) == []
    # What was in hand was finished, not dropped.
    left = status(tmp_path / "run")
    assert left["running"] == []
    assert left["references"] or left["measured"]


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    with busy_demo(tmp_path / "run", log) as demo:
        demo.send_signal(signal.SIGINT)
        wait_until(lambda: "finishing" in log.read_text())
        time.sleep(SAME_REQUEST_SECONDS)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(DEADLINE) == 130
    assert "Traceback" not in log.read_text()
    assert processes_naming(str(tmp_path / "run")) == []


def test_killed_it_takes_its_processes_along(tmp_path: Path) -> None:
    with busy_demo(tmp_path / "run", tmp_path / "demo.log") as demo:
        assert len(processes_naming(str(tmp_path / "run"))) >= 4
        demo.kill()
        demo.wait()
        wait_until(lambda: not processes_naming(str(tmp_path / "run")))
    assert status(tmp_path / "run")["master_alive"] is False


def test_a_demo_says_who_was_killed(tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    with busy_demo(tmp_path / "run", log) as demo:
        folder = str(tmp_path / "run")
        worker = process_naming("apbmm_worker.cli", f"{folder}/workers/demo-2")
        os.kill(worker, signal.SIGKILL)
        wait_until(
            lambda: (
                "worker demo-2 was killed by signal 9 (SIGKILL; perhaps the host ran out of "
                "memory): the others go on" in log.read_text()
            )
        )
        master = process_naming("apbmm_master.cli", folder)
        os.kill(master, signal.SIGKILL)
        assert demo.wait(DEADLINE) == 1
    # Python's resource trackers outlive the killed processes, and may warn behind these lines.
    lines = log.read_text().splitlines()
    error = lines.index(
        "error: the master was killed by signal 9 (SIGKILL; perhaps the host ran out of memory)"
    )
    hint = f"the same command with this --run-dir goes on ({tmp_path / 'run'})"
    assert hint in lines[error + 1]
    assert processes_naming(str(tmp_path / "run")) == []


def test_a_demo_whose_workers_all_end_says_why(tmp_path: Path) -> None:
    begin(tmp_path / "run", 1)
    # A file where the worker wants its folder.
    workers = tmp_path / "run" / "workers" / "demo-1"
    workers.mkdir(parents=True)
    (workers / "scratch").touch()
    with pytest.raises(WorkersLostError, match=r"every worker has ended: .*folders"):
        run_processes(
            tmp_path / "run", demo_workers(1, rehearsal=True), search_of(tmp_path / "run")
        )
    assert processes_naming(str(tmp_path / "run")) == []


def test_a_run_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shown = called("demo", "--rehearsal", "--run-dir", tmp_path / "file" / "run")
    assert shown.returncode == 2
    assert "cannot be used as a run directory" in shown.stderr


def test_a_missing_vllm_is_named_with_the_way_to_install_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "apbmm.installed.find_spec", lambda name: None if name == "vllm" else object()
    )
    with pytest.raises(UsageError, match="vllm is not installed") as caught:
        run_demo(tmp_path / "run", DemoOptions())
    assert "make demo" in caught.value.hint


def test_the_last_line_of_a_log_is_not_its_hint(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("12:00 INFO joined\nerror: no card\nhint: buy one\n\n")
    assert last_line(log) == "error: no card"
    assert last_line(tmp_path / "none") == "it left no log"
