"""`apbmm status` beside a real rehearsal: live, after a kill, and after the end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.protocol import status_requests
from commands import (
    DEADLINE,
    REPOSITORY,
    called,
    environment,
    free_address,
    started,
    wait_until,
    write_rehearsal,
)

KEYS = {
    "run",
    "algorithm",
    "budget",
    "evaluations",
    "workers",
    "front",
    "hypervolume",
    "load_rate",
    "master_alive",
}

pytestmark = pytest.mark.slow


class Rehearsal:
    """A master and a worker in a folder, which tests may kill."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.run_dir = folder / "runs" / "trial"
        self.status_address = free_address()
        address = free_address()
        run_file = write_rehearsal(folder / "run.toml", evaluations=200, seconds=1.0)
        self.master = stack.enter_context(
            started(
                "apbmm-master", run_file, "--run-dir", self.run_dir, "--bind", address,
                "--status-bind", self.status_address, log=folder / "master.log",
            )
        )  # fmt: skip
        self.worker = stack.enter_context(
            started(
                "apbmm-worker", "--gpu", "rehearsal", "--name", "one", "--master", address,
                "--state", folder / "worker", log=folder / "worker.log",
                env={"APBMM_LOCK_DIR": str(folder / "locks")},
            )
        )  # fmt: skip

    def status(self, target: object | None = None) -> dict[str, Any]:
        """What `apbmm status --json` prints, which is one object and nothing else."""
        shown = called("status", target or self.run_dir, "--json")
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.count("\n") == 1
        whole: dict[str, Any] = json.loads(shown.stdout)
        return whole

    def begun(self) -> bool:
        """Whether the journal knows of at least one point of the front."""
        if not (self.run_dir / "journal.sqlite").exists():
            return False
        shown = called("status", self.run_dir, "--json")
        return shown.returncode == 0 and bool(json.loads(shown.stdout).get("front"))


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[Rehearsal]:
    with ExitStack() as stack:
        running = Rehearsal(tmp_path, stack)
        wait_until(running.begun)
        yield running


def test_status_live_and_from_the_journal(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A living master is waited for, and a dead one not: else the test would take that long.
    monkeypatch.setattr(status_requests, "ANSWER_SECONDS", DEADLINE)
    live = rehearsal.status()
    assert live.keys() >= KEYS
    assert live["master_alive"] is True
    assert live["algorithm"] == "uniform"
    assert live["budget"] == 200
    assert live["evaluations"].keys() >= {"done", "running", "queued", "failed"}
    assert [worker["name"] for worker in live["workers"]] == ["one"]
    assert live["workers"][0]["heartbeat_age"] >= 0
    assert all(point.keys() >= {"id", "objectives", "metrics"} for point in live["front"])
    assert live["hypervolume"] > 0
    assert rehearsal.status(rehearsal.status_address)["run"] == live["run"]

    # The latest run is found without being named, and people get text.
    shown = called("status", cwd=rehearsal.folder)
    assert shown.returncode == 0
    assert "REHEARSAL" in shown.stdout
    assert "master alive" in shown.stdout
    assert "Pareto front" in shown.stdout

    # A killed master leaves its address behind: the journal answers.
    rehearsal.master.kill()
    rehearsal.master.wait()
    assert (rehearsal.run_dir / "status.json").exists()
    dead = rehearsal.status()
    assert dead.keys() >= KEYS
    assert dead["master_alive"] is False
    assert dead["run"] == live["run"]
    assert dead["evaluations"]["done"] >= live["evaluations"]["done"]
    assert {point["id"] for point in dead["front"]}
    assert dead["hypervolume"] >= live["hypervolume"]
    assert "no master" in called("status", rehearsal.run_dir).stdout
    monkeypatch.setattr(status_requests, "ANSWER_SECONDS", 0.5)
    gone = called("status", rehearsal.status_address)
    assert gone.returncode == 1
    assert "no master answers" in gone.stderr
    assert "Traceback" not in gone.stderr


def test_the_documentation_reads_status_without_apbmm(rehearsal: Rehearsal) -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    code = next(c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "zmq" in c)
    assert "apbmm" not in code
    shown = subprocess.run(
        [sys.executable, "-c", code.replace("runs/qwen3", str(rehearsal.run_dir))],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=DEADLINE,
        check=True,
    )
    assert shown.stdout.startswith(rehearsal.status()["run"])
    assert "objectives" not in shown.stdout


def test_watch_follows_a_run_to_its_end(tmp_path: Path) -> None:
    address = free_address()
    run_file = write_rehearsal(tmp_path / "run.toml", evaluations=4, seconds=0.5)
    run_dir = tmp_path / "trial"
    with ExitStack() as stack:
        master = stack.enter_context(
            started(
                "apbmm-master", run_file, "--run-dir", run_dir, "--bind", address,
                log=tmp_path / "master.log",
            )
        )  # fmt: skip
        wait_until((run_dir / "status.json").exists)
        watch = stack.enter_context(
            started("apbmm", "status", run_dir, "--watch", log=tmp_path / "watch.log")
        )
        stack.enter_context(
            started(
                "apbmm-worker", "--gpu", "rehearsal", "--master", address, "--state",
                tmp_path / "worker", log=tmp_path / "worker.log",
                env={"APBMM_LOCK_DIR": str(tmp_path / "locks")},
            )
        )  # fmt: skip
        assert master.wait(DEADLINE) == 0
        assert watch.wait(DEADLINE) == 0
    assert "finished: 4 evaluations completed" in (tmp_path / "watch.log").read_text()
