"""Evaluations that workers vanish on, again and again: what is said of them, and what is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from apbmm.status.view import console, render
from apbmm_master.journal.evaluations import VANISHED
from apbmm_master.journal.events import Lost
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.run_state import RunState
from apbmm_master.optimiser.client import history_of, pending_evaluations, search_arguments
from apbmm_master.optimiser.process import AskRequest, OptimiserSession
from apbmm_master.scheduling.lost_workers import set_aside, waiting
from apbmm_master.scheduling.policy import Finish, Moment, initial_missing
from apbmm_master.status.snapshot import journal_snapshot
from protocol_world import Sim, World, world_spec

BUDGET = {"evaluations": 6, "initial": 2, "failures": 2}


def at_work(on: str = "e0001", **changes: Any) -> tuple[World, Sim]:
    """A world with one worker, through with all before ``on``, that has begun it."""
    world = World(budget=BUDGET, **changes)
    worker = world.join("a")
    for _ in range(40):
        worker.beat()
        world.exchange()
        if worker.held is not None and worker.held.evaluation == on:
            return world, worker
        if worker.held is not None:
            worker.finish()
    raise AssertionError(f"{on} was not begun")


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
        assert not set_aside(world.run_state), number
        assert worker.held is not None
        assert worker.held.evaluation == "e0001"
        worker = goes_down(world, worker)
    assert [e.id for e in set_aside(world.run_state)] == ["e0001"]
    assert (waiting(world.run_state), worker.held is not None) == (1, True)
    assert worker.held is not None
    assert worker.held.evaluation == "e0002", "something else comes first"
    (line,) = [r.getMessage() for r in caplog.records if "is set aside" in r.getMessage()]
    assert line.startswith("e0001 is set aside: 5 workers vanished while they evaluated it (a): ")
    shown_by = console()
    with shown_by.capture() as shown:
        shown_by.print(render(journal_snapshot(world.run_state)))
    assert "e0001 is set aside: 5 workers vanished" in shown.get()


@pytest.mark.parametrize("method", ["ap-bmm", "sobol"])
def test_the_method_counts_on_it_no_more_and_replaces_it(method: str) -> None:
    """Its place in the design would block the search, and its place in the budget the end."""
    world, worker = at_work(algorithm={"name": method})
    for _ in range(VANISHED):
        worker = goes_down(world, worker)
    last = max(i for i, r in enumerate(world.stored) if isinstance(r.event, Lost))
    run_state = RunState().replay(world.stored[: last + 1])
    assert [e.id for e in pending_evaluations(run_state)] == ["e0002"]
    assert initial_missing(run_state, world_spec(budget=BUDGET)) == 1
    pending = tuple(e.vector for e in pending_evaluations(run_state))
    wanted = BUDGET["evaluations"] - 1 if method == "sobol" else 1
    request = AskRequest(
        search_arguments(run_state), history_of(run_state), pending, BUDGET["evaluations"]
    )
    answer = OptimiserSession().reply(request)
    assert len(answer.vectors) == wanted, "all but what is in flight; of a design what it lacks"
    assert not {e.vector for e in run_state.evaluations.values()} & set(answer.vectors)


class InBatches(World):
    """A run of a method that proposes two vectors at a time."""

    def moment(self) -> Moment:
        return replace(super().moment(), batch=2)


def end_with_one_worker(world: World, deaths: int) -> Finish:
    """How a run ends whose only worker goes down with e0004 so many times, if it comes to that."""
    worker = world.join("a")
    for _ in range(40 * VANISHED):
        if world.end is not None:
            break
        if worker.held is not None and worker.held.evaluation == "e0004" and deaths:
            deaths -= 1
            worker = goes_down(world, worker)
        elif worker.held is not None:
            worker.finish()
        worker.beat()
        world.exchange()
    assert world.end is not None
    return world.end


@pytest.mark.parametrize("kind", [World, InBatches])
def test_one_worker_alone_goes_on_with_the_search(kind: type[World]) -> None:
    """Whatever it tries in vain, something new is proposed meanwhile."""
    world = kind(budget=BUDGET)
    end = end_with_one_worker(world, 40 * VANISHED)
    assert end.reason == f"{BUDGET['evaluations']} evaluations completed"
    assert [e.id for e in set_aside(world.run_state)] == ["e0004"]


class WithoutMore(World):
    """A run of a method with no more points than its budget, as a grid has."""

    def moment(self) -> Moment:
        asked = self.run_state.count()
        return replace(super().moment(), exhausted=asked >= BUDGET["evaluations"])


@pytest.mark.parametrize("deaths", [2 * VANISHED - 1, 2 * VANISHED])
def test_where_nothing_else_is_left_it_is_tried_as_often_again(deaths: int) -> None:
    world = WithoutMore(budget=BUDGET)
    end = end_with_one_worker(world, deaths)
    if deaths < 2 * VANISHED:
        assert end.reason == "6 evaluations completed"
        assert "e0004" in world.run_state.completed
    else:
        assert end.reason == "the method has no more to try after 5 evaluations"
        assert "e0004" not in world.run_state.completed


def test_it_comes_back_into_the_budget_with_its_result() -> None:
    world, worker = at_work()
    for _ in range(VANISHED):
        worker = goes_down(world, worker)
    world.settle()
    done = {e.id for e in world.run_state.of_state(EvaluationState.DONE)}
    assert "e0001" in done
    assert not set_aside(world.run_state)
    assert len(world.run_state.completed) == BUDGET["evaluations"]


def test_workers_that_say_goodbye_have_not_vanished() -> None:
    world, worker = at_work()
    for _ in range(2 * VANISHED):
        assert worker.held is not None
        worker.bye()
        world.exchange()
        worker = goes_down(world, worker)
    assert world.run_state.evaluations["e0001"].vanishings == 0
    assert len(world.run_state.evaluations["e0001"].attempts) > VANISHED


def test_references_are_never_set_aside() -> None:
    world, worker = at_work(on="thinking")
    for _ in range(VANISHED + 1):
        assert worker.held is not None
        assert worker.held.evaluation == "thinking"
        worker = goes_down(world, worker)
    assert world.run_state.evaluations["thinking"].vanishings > VANISHED
    assert not set_aside(world.run_state)


def test_where_all_vanish_the_fleet_is_the_culprit_and_nothing_is_set_aside() -> None:
    world, worker = at_work()
    seen = 0
    for _ in range(60 * VANISHED):
        worker = goes_down(world, worker)
        unlucky = [e for e in world.run_state.troubled() if e.vanishings >= VANISHED]
        seen = max(seen, len(unlucky))
        assert len(set_aside(world.run_state)) == (len(unlucky) if len(unlucky) <= 2 else 0)
        if seen > 2:
            break
    assert seen > BUDGET["failures"]
    world.settle()
    assert len(world.run_state.completed) >= BUDGET["evaluations"]
