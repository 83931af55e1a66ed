"""Vectors that take down whatever evaluates them: set aside, tried last, and the run ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apbmm_master.journal.evaluations import VANISHED
from apbmm_master.journal.events import Leased, Lost
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.run_state import RunState
from apbmm_master.scheduling.lost_workers import set_aside
from commands import run
from fault_accounts import accounts
from rehearsal_runs import Process, Site, wait_for

pytestmark = pytest.mark.slow

BUDGET, INITIAL = 8, 4
DEADLY = ("e0002", "e0003")
FAULT = ",".join(f"hang:{name}" for name in DEADLY)
"""An evaluation that hangs is in hand for as long as it takes to kill its worker."""


def attempts_in_hand(site: Site) -> set[str]:
    """NAME.NUMBER of each attempt that a worker works on."""
    return {lease.rpartition(".")[0] for lease in site.running()}


def status(site: Site) -> dict[str, Any]:
    shown = run("apbmm", "status", site.run_dir, "--json")
    assert shown.returncode == 0, shown.stderr
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


def assert_named(shown: dict[str, Any]) -> None:
    """Both are set aside and known by their workers; one of them is tried, the other waits."""
    assert sorted(item["id"] for item in shown["set_aside"]) == sorted(DEADLY)
    for item in shown["set_aside"]:
        assert item["message"].startswith(f"{VANISHED} workers vanished while they evaluated it (")
    (tried,) = shown["running"]
    assert tried["id"] in DEADLY
    assert tried["attempt"] == VANISHED + 1
    counts = {"done": BUDGET - 1, "running": 1, "queued": 1, "failed": 0, "duplicates": 0}
    assert shown["evaluations"] == counts


def assert_in_turn(site: Site) -> None:
    """Since each was set aside, it was leased only where nothing else waited, and none beside it.

    Read from the journal: what it said just before the lease.
    """
    before, late = RunState(), 0
    for record in site.records():
        event = record.event
        if isinstance(event, Leased) and event.attempt > VANISHED:
            late += 1
            waiting = {e.id for e in before.of_state(EvaluationState.QUEUED)}
            assert waiting <= set(DEADLY), f"{event.lease} came before others"
            beside = {a.lease for _, a in before.active_attempts() if a.number > VANISHED}
            assert not beside, f"{event.lease} was given beside {beside}"
        before.apply(record)
    assert late


def test_what_takes_workers_down_is_tried_last_by_one_and_the_run_ends(site: Site) -> None:
    site.configure(
        budget={"evaluations": BUDGET, "initial": INITIAL, "failures": len(DEADLY)},
        evaluation={"rehearsal_seconds": 0.2},
    )
    master = site.master()
    crew = {name: site.worker(name, fault=FAULT) for name in ("a", "b")}

    def replace(name: str, fault: str) -> Process:
        """kill -9 of a worker, and another in its place."""
        crew[name].kill()
        crew[name] = site.worker(name, fault=fault)
        return crew[name]

    for number in range(1, VANISHED + 1):
        both = {f"{name}.{number}" for name in DEADLY}
        wait_for(f"{both} in hand", lambda both=both: both == attempts_in_hand(site))  # type: ignore[misc]
        assert not set_aside(site.run_state())
        for name in crew:
            replace(name, FAULT)

    # The master may notice one worker's end some time after the other's.
    wait_for("both set aside", lambda: {e.id for e in set_aside(site.run_state())} == set(DEADLY))
    again = {f"{name}.{VANISHED + 1}" for name in DEADLY}
    wait_for("another attempt", lambda: again & attempts_in_hand(site))
    assert_in_turn(site)
    # Neither holds a place in the budget: what was proposed instead is evaluated beside it.
    wait_for("all that can be done", lambda: site.done() == BUDGET - 1)
    live = status(site)
    assert live["master_alive"]
    assert_named(live)
    assert sorted(worker["state"] for worker in live["workers"]) == ["busy", "idle"]
    master.kill()
    assert_named(status(site))
    assert master.output.count("is set aside: 5 workers vanished") == len(DEADLY)

    master = site.master()
    busy = live["running"][0]["worker"]
    (idle,) = crew.keys() - {busy}
    replace(idle, "")
    replace(busy, "")
    assert master.end() == 0, master.output
    assert f"finished: {BUDGET} evaluations completed" in master.output
    site.assert_whole(BUDGET)
    assert_in_turn(site)
    evaluations = site.run_state().evaluations
    states = sorted(str(evaluations[name].state) for name in DEADLY)
    assert states == ["done", "queued"], "one was evaluated in the end, the other left out"
    assert len(set(site.run_state().completed) & set(DEADLY)) == 1
    assert sum(evaluations[name].vanishings for name in DEADLY) == 2 * VANISHED + 1
    assert len(site.events(Lost)) == 2 * VANISHED + 1
    assert {name for name, count in site.attempts().items() if count > 1} == set(DEADLY)
    found = accounts(site, [site.run_dir])
    assert (found.lost, found.twice) == ([], [])
    assert {evaluation for _, evaluation in found.again} == set(DEADLY)
