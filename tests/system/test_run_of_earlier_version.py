"""A run directory of the version before the rooms: it is read, and resumed to its end.

The run in the fixture was killed half way. One evaluation had failed (e0003), one had lost a worker
(e0006), one was set aside after five lost workers and was tried for a sixth time (e0002), and one
was in progress (e0009).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from apbmm_master.journal.events import Leased, ResultRecorded
from apbmm_master.journal.state.evaluations import LOST_WORKERS_LIMIT
from commands import called
from rehearsal_runs import Site

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run_directory_of_protocol_2"
BUDGET = 12
DONE = ["e0001", "e0004", "e0005", "e0006", "e0007", "e0008"]
"""In the order of their completion."""


@pytest.fixture
def old(site: Site) -> Site:
    """A site with a copy of the run directory and its run file."""
    shutil.copytree(FIXTURE, site.run_dir)
    site.run_file = site.run_dir / "run.toml"
    return site


def test_its_state_is_what_it_was(old: Site) -> None:
    run_state = old.run_state()
    assert run_state.completed == DONE
    assert [e.id for e, _ in run_state.active_attempts()] == ["e0002", "e0009"]
    assert run_state.evaluations["e0002"].lost_workers == LOST_WORKERS_LIMIT
    assert run_state.evaluations["e0006"].lost_workers == 1


def test_status_and_compare_read_it(old: Site) -> None:
    shown = called("status", old.run_dir, "--json")
    assert shown.returncode == 0, shown.stderr
    status = json.loads(shown.stdout)
    assert status["evaluations"] == {
        "done": len(DONE), "running": 2, "queued": 0, "paused": 0, "stopped": 0, "failed": 1,
        "duplicates": 0,
    }  # fmt: skip
    assert [item["id"] for item in status["failures"]] == ["e0003"]
    assert {point["id"] for point in status["front"]} <= set(DONE)
    assert status["hypervolume"] > 0
    compared = called("compare", old.run_dir, "--json")
    assert compared.returncode == 0, compared.stderr
    assert str(status["hypervolume"]) in compared.stdout


@pytest.mark.slow
def test_it_resumes_to_its_end_and_nothing_is_lost_or_repeated(old: Site) -> None:
    before = old.records()
    master = old.master()
    for name in "abc":
        old.worker(name)
    assert master.end() == 0, master.output
    assert f"finished: {BUDGET} evaluations completed" in master.output
    records = old.records()
    assert records[: len(before)] == before
    old.assert_whole(BUDGET)
    new = [record.event for record in records[len(before) :]]
    leased = Counter(event.evaluation for event in new if isinstance(event, Leased))
    assert not set(leased) & {*DONE, "measure", "thinking", "instruct", "e0002", "e0003"}
    assert set(leased.values()) == {1}
    measured = {event.evaluation for event in new if isinstance(event, ResultRecorded)}
    assert measured == set(leased)
    assert old.run_state().evaluations["e0002"].failed_by_lost_workers
