"""Faults of the data or the run file that only a worker finds, with real processes."""

from __future__ import annotations

import pytest

from apbmm_common.errors import EXIT_DONE, EXIT_USAGE
from apbmm_master.journal.events import AttemptFailed, ResultRecorded, WorkerQuarantined
from rehearsal_runs import Process, Site, wait_for

pytestmark = pytest.mark.slow
SAYS = "APBMM_REHEARSAL_FAULT asks for it"


def ended_by_name(master: Process, fault: str) -> None:
    """The master ended with the exit code of a run file's error, and no traceback."""
    assert master.end() == EXIT_USAGE, master.output
    assert "error: the data or the run file is at fault:" in master.output
    assert fault in master.output
    assert "the same command goes on" in master.output
    assert "Traceback" not in master.output


def test_what_cannot_be_scored_ends_the_run_and_the_same_command_goes_on(site: Site) -> None:
    """By all workers that are there; they are started anew, as if their data had been mended."""
    site.configure()
    workers = [site.worker(name, fault="run_file:thinking") for name in ("a", "b")]
    ended_by_name(site.master(), f": {SAYS}")
    failed = site.events(AttemptFailed)
    assert {(event.evaluation, event.fault) for event in failed} == {("thinking", "run_file")}
    assert site.events(WorkerQuarantined) == []
    recorded = site.events(ResultRecorded)
    assert recorded, "the measurement at least"
    for worker in workers:
        assert worker.popen.poll() is None, "workers outlive masters"
        worker.kill()

    site.worker("a")
    master = site.master()
    assert master.end() == EXIT_DONE, master.output
    site.assert_whole(6)
    assert site.events(ResultRecorded)[: len(recorded)] == recorded
    assert site.events(WorkerQuarantined) == []


def test_what_no_worker_can_prepare_ends_the_run_and_the_run_file_may_be_mended(
    site: Site,
) -> None:
    site.configure()
    worker = site.worker("a", fault="run_file:prepare")
    ended_by_name(site.master(), f"a: {SAYS}")
    worker.kill()
    site.configure(generation={"context": 256})
    site.worker("a")
    master = site.master()
    assert master.end() == EXIT_DONE, master.output
    site.assert_whole(6)


def test_status_names_what_a_run_waits_for(site: Site) -> None:
    site.configure()
    site.worker("a", fault="infrastructure:prepare")
    master = site.master()
    reason = f"a (unfit): {SAYS}"
    wait_for("the master to say so", lambda: reason in master.output)
    assert reason in site.status()["trouble"]
    assert "reads its files again" in site.status()["trouble"]
    assert master.popen.poll() is None
