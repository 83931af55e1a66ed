"""What the status snapshot says of workers that begin, of the last completions, and of speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm.results.run_results import results_of
from apbmm_common.protocol.messages import Beat, Hello
from apbmm_master.journal.assessment.scores import ScoreHistory
from apbmm_master.status.snapshot import RECENT, journal_snapshot
from protocol_world import RUN, World, searched
from served_world import Served, status_of


def test_a_worker_that_is_not_ready_shows_its_stage() -> None:
    world = World()
    hello = Hello(worker="w", boot="b", number=1, gpu="0", host="h", pid=1, versions={})
    world.turn([(b"w", hello)])
    (before,) = status_of(Served(world))["workers"]
    assert (before["state"], before["stage"]) == ("preparing", "")
    world.turn([(b"w", Beat(run=RUN, stage="verify", done=3, total=8, quiet=1.5, hello=1))])
    (worker,) = status_of(Served(world))["workers"]
    assert worker["state"] == "preparing"
    assert [worker[key] for key in ("stage", "done", "total", "quiet")] == ["verify", 3, 8, 1.5]


def test_an_evaluation_does_not_show_the_progress_of_the_one_before() -> None:
    world = World()
    a = world.join("a")
    shown = []
    for _ in range(2):
        world.exchange()
        assert a.held is not None
        lease = a.held.lease
        (before,) = status_of(Served(world))["workers"]
        beat = Beat(run=RUN, lease=lease, stage="evaluate", done=9, total=84, hello=a.hellos)
        world.turn([(a.identity, beat)])
        (after,) = status_of(Served(world))["workers"]
        shown.append([(row["stage"], row["done"], row["total"]) for row in (before, after)])
        a.finish()
        world.exchange()
    assert shown == [[("", 0, 0), ("evaluate", 9, 84)]] * 2


def test_the_last_completions_are_shown_and_no_worker_after_the_end() -> None:
    world = searched(RECENT + 2)
    snapshot = journal_snapshot(world.run_state)
    assert snapshot["workers"] == []
    recent = snapshot["recent"]
    assert [done["id"] for done in recent] == world.run_state.completed[-RECENT:]
    front = {point["id"] for point in snapshot["front"]}
    assert {done["id"] for done in recent if done["on_front"]} == front & {d["id"] for d in recent}
    assert recent[-1]["hypervolume"] == snapshot["hypervolume"]
    assert recent[-1]["metrics"]["sums"]["questions"] == 10
    assert recent[0]["at"] < recent[-1]["at"] <= world.now


def test_without_a_master_time_and_cost_stand_still_at_the_last_event(tmp_path: Path) -> None:
    world = World()
    world.join("a")
    world.exchange()
    world.now += 90.0
    world.join("b")
    world.exchange()
    snapshot = journal_snapshot(world.run_state)
    assert snapshot["running"]
    results = results_of(
        "run", tmp_path, world.stored, world.run_state, sums={}, history=ScoreHistory()
    )
    assert snapshot["seconds"] == results.seconds
    assert snapshot["gpu_seconds"] == results.gpu_seconds > 0.0


def test_the_time_of_a_living_run_goes_on_while_its_workers_prepare() -> None:
    world = World()
    last = world.run_state.time
    before, after = (
        journal_snapshot(world.run_state, now=last + passed)["seconds"] for passed in (5.0, 12.0)
    )
    assert after - before == pytest.approx(7.0)


def test_tokens_a_second_are_of_a_minute_or_a_mean_evaluation() -> None:
    world = searched(4)
    served = Served(world)
    served.token_rate.add(600)
    speed = status_of(served)["tokens_a_second"]
    assert speed["seconds"] == 60.0
    assert 0.0 < speed["mean"] <= 600.0
