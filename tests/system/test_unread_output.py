"""Nobody reads what a master prints: its run goes on and ends as any other."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from commands import DEADLINE, command_line, environment, free_address, started, write_rehearsal

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("output", ["a full disk", "a closed pipe"])
def test_a_run_does_not_end_because_its_output_cannot_be_written(
    tmp_path: Path, output: str
) -> None:
    run_file = write_rehearsal(tmp_path / "run.toml", evaluations=3, initial=3, seconds=0.1)
    run_dir, address = tmp_path / "run", free_address()
    worker = started(
        "apbmm-worker", "--gpu", "rehearsal", "--name", "w", "--master", address,
        "--state", tmp_path / "state", "--keys", "none", log=tmp_path / "worker.log",
        env={"APBMM_LOCK_DIR": str(tmp_path / "locks")},
    )  # fmt: skip
    master = command_line(
        "apbmm-master", run_file, "--run-dir", run_dir, "--bind", address, "--keys", "none"
    )
    if output == "a full disk":
        unread = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, unread = os.pipe()
        os.close(reader)
    try:
        with worker:
            ran = subprocess.run(
                master, stdout=unread, stderr=subprocess.PIPE, text=True, env=environment(),
                timeout=DEADLINE, check=False,
            )  # fmt: skip
    finally:
        os.close(unread)
    assert ran.returncode == 0, ran.stderr
    assert len(RunState().replay(read_journal(run_dir)).completed) == 3
    assert ran.stderr.count("standard output cannot be written") == 1
    assert "Traceback" not in ran.stderr
