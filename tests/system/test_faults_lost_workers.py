"""Merges that take down every worker that evaluates them: they fail, and the run ends well."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apbmm_common.protocol import status_requests
from apbmm_master.journal.events import EvaluationFailed, Lost
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import LOST_WORKERS_LIMIT
from commands import DEADLINE, called
from fault_accounts import accounts
from rehearsal_runs import Site, wait_for

pytestmark = pytest.mark.slow

BUDGET, INITIAL = 8, 4
DEADLY = ("e0002", "e0003")
FAULT = ",".join(f"hang:{name}" for name in DEADLY)
"""An evaluation that hangs is in progress for as long as it takes to kill its worker."""


def attempts_in_progress(site: Site) -> set[str]:
    """NAME.NUMBER of each attempt that a worker works on."""
    return {lease.rpartition(".")[0] for lease in site.running()}


def failed(site: Site) -> set[str]:
    return {e.id for e in site.run_state().of_state(EvaluationState.FAILED)}


def assert_named_in_status(site: Site, *, alive: bool) -> None:
    shown = called("status", site.run_dir, "--json")
    assert shown.returncode == 0, shown.stderr
    found: dict[str, Any] = json.loads(shown.stdout)
    assert found["master_alive"] == alive
    assert sorted(item["id"] for item in found["failures"]) == sorted(DEADLY)
    for item in found["failures"]:
        assert item["message"].startswith(f"{LOST_WORKERS_LIMIT} workers were lost while they ")
    assert found["evaluations"]["failed"] == len(DEADLY)


def test_merges_that_take_workers_down_fail_and_the_run_ends_without_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget allows no failure: these do not count towards it."""
    monkeypatch.setattr(status_requests, "ANSWER_SECONDS", DEADLINE)
    site.configure(
        algorithm={"name": "sobol"},  # has vectors in place of those that fail
        budget={"evaluations": BUDGET, "initial": INITIAL, "failures": 0},
        evaluation={"rehearsal_seconds": 0.2},
    )
    master = site.master()
    crew = {name: site.worker(name, fault=FAULT) for name in ("a", "b")}

    def replace(fault: str) -> None:
        """kill -9 of every worker, and others in their places."""
        for name, worker in list(crew.items()):
            worker.kill()
            crew[name] = site.worker(name, fault=fault)

    for number in range(1, LOST_WORKERS_LIMIT + 1):
        both = {f"{name}.{number}" for name in DEADLY}
        wait_for(f"{both} in progress", lambda both=both: both == attempts_in_progress(site))  # type: ignore[misc]
        assert not failed(site)
        # The last ones hang with whatever they get, so that the run cannot end meanwhile.
        replace(FAULT if number < LOST_WORKERS_LIMIT else "hang:*")

    wait_for("both failed", lambda: failed(site) == set(DEADLY))
    assert_named_in_status(site, alive=True)
    master.kill()
    assert_named_in_status(site, alive=False)
    assert master.output.count("is given up: 5 workers were lost") == len(DEADLY)

    master = site.master()
    replace("")
    assert master.end() == 0, master.output
    assert f"finished: {BUDGET} evaluations completed" in master.output
    site.assert_whole(BUDGET)
    evaluations = site.run_state().evaluations
    assert [evaluations[name].lost_workers for name in DEADLY] == [LOST_WORKERS_LIMIT] * 2
    lost = [event.evaluation for event in site.events(Lost)]
    assert [lost.count(name) for name in DEADLY] == [LOST_WORKERS_LIMIT] * 2
    assert len(site.events(EvaluationFailed)) == len(DEADLY)
    found = accounts(site, [site.run_dir])
    assert (found.lost, found.twice) == ([], [])
    assert {evaluation for _, evaluation in found.again} == {*lost}
