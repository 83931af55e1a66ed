"""Runs from beginning to end, and over restarts, with real processes."""

from __future__ import annotations

import signal

import pytest

from rehearsal_runs import Site, wait_for


@pytest.mark.slow
def test_a_run_completes_with_workers_that_were_there_first(site: Site) -> None:
    site.configure()
    workers = [site.worker("a"), site.worker("b")]
    wait_for("both workers to start", lambda: all(w.output or w.children() for w in workers) or True)
    master = site.master()
    assert master.end() == 0, master.output
    site.assert_whole(6)
    site.assert_nothing_was_repeated()
    assert "hypervolume" in master.output
    assert "REHEARSAL" in master.output
    assert all(worker.popen.poll() is None for worker in workers), "a worker outlives its master"
    for worker in workers:
        worker.signal(signal.SIGTERM)
    assert [worker.end() for worker in workers] == [0, 0]
