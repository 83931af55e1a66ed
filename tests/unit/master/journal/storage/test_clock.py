"""A run's times neither jump with the clock of the master's host nor run backwards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from apbmm_master.journal.storage.clock import RunClock
from apbmm_master.journal.storage.store import read_journal
from apbmm_master.status.snapshot import journal_snapshot, live_snapshot
from fake_peers import FakeWorker, master_in_process, until
from protocol_world import world_spec

DAY = 86_400.0
TIMINGS = {"beat": 0.2, "suspect": 20.0, "unreachable": 40.0, "resend": 0.5}


class Clock:
    """The wall clock, which a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        true = time.time
        monkeypatch.setattr("time.time", lambda: true() + self.ahead)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_clock_that_is_set_meanwhile_changes_nothing(
    wall: Clock, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    passed = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: passed)
    clock = RunClock()
    began = clock.now()
    assert began == pytest.approx(time.time(), abs=60.0)
    wall.ahead, passed = jump, passed + 5.0
    assert clock.now() - began == pytest.approx(5.0)


@pytest.mark.parametrize("behind", [DAY, 1.0])
def test_a_journals_times_go_on_from_its_last_event(
    caplog: pytest.LogCaptureFixture, behind: float
) -> None:
    last = time.time() + behind
    clock = RunClock(last)
    assert last <= clock.now() < last + 60.0
    assert ("behind the run's last event" in caplog.text) == (behind == DAY)


@pytest.mark.slow
@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_a_clock_that_is_set_between_two_masters_makes_no_figures(
    tmp_path: Path, wall: Clock, jump: float
) -> None:
    """The second master's events follow the first one's, and its status is of its own time."""
    spec: Any = world_spec(timings=TIMINGS, budget={"evaluations": 400, "initial": 400})
    for _ in range(2):
        async with master_in_process(spec, tmp_path) as (master, address, _):
            done = len(master.run_state.completed)  # by the master before
            async with FakeWorker(address, "a").at_work():
                await until("results", lambda n=done: len(master.run_state.completed) > n + 3)  # type: ignore[misc]
            for snapshot in (live_snapshot(master), journal_snapshot(master.run_state)):
                assert 0.0 < snapshot["load_rate"] <= 1.0
                assert snapshot["stages"]["seconds"]["wait"] < DAY / 2
                assert all(running["seconds"] < DAY / 2 for running in snapshot["running"])
        wall.ahead = jump
    times = [record.time for record in read_journal(tmp_path)]
    assert times == sorted(times)
