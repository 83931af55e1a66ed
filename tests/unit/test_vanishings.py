"""Evaluations that workers vanish on, again and again: what is said of them, and what is not."""

from __future__ import annotations

import pytest

from apbmm.status_view import console, render
from apbmm_master.lifecycle import EvaluationState
from apbmm_master.status import journal_snapshot
from apbmm_master.vanishings import VANISHED, set_aside, waiting
from protocol_world import Sim, World

BUDGET = {"evaluations": 6, "initial": 2, "failures": 2}


def at_work() -> tuple[World, Sim]:
    """A world with one worker, through with references and measurement, that has begun e0001."""
    world = World(budget=BUDGET)
    worker = world.join("a")
    for _ in range(40):
        worker.beat()
        world.exchange()
        if worker.held is not None and worker.held.evaluation == "e0001":
            return world, worker
        if worker.held is not None:
            worker.finish()
    raise AssertionError("e0001 was not begun")


def goes_down(world: World, worker: Sim) -> Sim:
    worker.alive = False
    again = world.join(worker.name)
    for _ in range(4):
        world.exchange()
        again.beat()
    return again


def test_what_takes_hosts_down_is_set_aside_and_named(caplog: pytest.LogCaptureFixture) -> None:
    world, worker = at_work()
    for number in range(VANISHED):
        assert not set_aside(world.ledger), number
        assert worker.held is not None
        assert worker.held.evaluation == "e0001"
        worker = goes_down(world, worker)
    assert [e.id for e in set_aside(world.ledger)] == ["e0001"]
    assert (waiting(world.ledger), worker.held is not None) == (1, True)
    assert worker.held is not None
    assert worker.held.evaluation == "e0002", "something else comes first"
    (line,) = [r.getMessage() for r in caplog.records if "is set aside" in r.getMessage()]
    assert line.startswith("e0001 is set aside: 5 workers vanished while they evaluated it (a): ")
    shown_by = console()
    with shown_by.capture() as shown:
        shown_by.print(render(journal_snapshot(world.ledger)))
    assert "e0001 is set aside: 5 workers vanished" in shown.get()


def test_it_comes_back_into_the_budget_with_its_result() -> None:
    world, worker = at_work()
    for _ in range(VANISHED):
        worker = goes_down(world, worker)
    world.settle()
    done = {e.id for e in world.ledger.of_state(EvaluationState.DONE)}
    assert "e0001" in done
    assert not set_aside(world.ledger)
    assert len(world.ledger.completed) == BUDGET["evaluations"]


def test_workers_that_say_goodbye_have_not_vanished() -> None:
    world, worker = at_work()
    for _ in range(2 * VANISHED):
        assert worker.held is not None
        worker.bye()
        world.exchange()
        worker = goes_down(world, worker)
    assert world.ledger.evaluations["e0001"].vanishings == 0
    assert len(world.ledger.evaluations["e0001"].attempts) > VANISHED


def test_references_are_never_set_aside() -> None:
    world = World(budget=BUDGET)
    worker = world.join("a")
    for _ in range(200):
        worker.beat()
        world.exchange()
        if worker.held is not None and worker.held.evaluation == "thinking":
            worker = goes_down(world, worker)
        elif worker.held is not None:
            worker.finish()
        if world.ledger.evaluations.get("thinking") is None:
            continue
        if world.ledger.evaluations["thinking"].vanishings > VANISHED:
            break
    assert world.ledger.evaluations["thinking"].vanishings > VANISHED
    assert not set_aside(world.ledger)


def test_where_all_vanish_the_fleet_is_the_culprit_and_nothing_is_set_aside() -> None:
    world, worker = at_work()
    seen = 0
    for _ in range(60 * VANISHED):
        worker = goes_down(world, worker)
        unlucky = [e for e in world.ledger.troubled() if e.vanishings >= VANISHED]
        seen = max(seen, len(unlucky))
        assert len(set_aside(world.ledger)) == (len(unlucky) if len(unlucky) <= 2 else 0)
        if seen > 2:
            break
    assert seen > BUDGET["failures"]
    world.settle()
    assert len(world.ledger.completed) >= BUDGET["evaluations"]
