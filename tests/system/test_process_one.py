"""A worker as a container runs it: process 1 of its own namespace, and so its child's parent."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from rehearsal_runs import Site, wait_for

CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.mark.slow
def test_process_one_evaluates_and_drains(site: Site) -> None:
    tried = subprocess.run([*CONTAINER, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no process namespace can be made here: {tried.stderr.strip()}")
    site.configure(budget={"evaluations": 2, "initial": 2})
    worker = site.worker("a", within=CONTAINER)
    master = site.master()
    refusal = "cannot take part"
    wait_for("the run's end", lambda: site.done() == 2 or refusal in worker.output)
    assert refusal not in worker.output
    assert master.end() == 0, master.output
    site.assert_whole(2)
    (process_one,) = worker.children()
    os.kill(process_one, signal.SIGTERM)
    assert worker.end() == 0, worker.output
