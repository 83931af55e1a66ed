"""Evaluations on which one worker after another is lost: they fail, and the run goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apbmm.status.view import console, render
from apbmm_master.journal.events import EvaluationFailed, Leased, Lost
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import LOST_WORKERS_LIMIT, Evaluation, TellCall
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.optimiser.client import history_of, pending_evaluations, search_arguments
from apbmm_master.optimiser.process import AskRequest, OptimiserSession
from apbmm_master.scheduling.policy.asking import initial_missing
from apbmm_master.scheduling.policy.decisions import FinishRun
from apbmm_master.scheduling.policy.situation import Situation
from apbmm_master.status.snapshot import journal_snapshot
from protocol_world import PROMPTS, Sim, World, world_spec

BUDGET = {"evaluations": 6, "initial": 2, "failures": 2}


def at_work(on: str = "e0001", **changes: object) -> tuple[World, Sim]:
    """A world with one worker that has finished everything before ``on`` and has begun it."""
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
    """The worker's host goes down and starts its worker anew."""
    worker.alive = False
    again = world.join(worker.name)
    for _ in range(4):
        world.exchange()
        again.beat()
    return again


def lose_workers(world: World, worker: Sim, count: int = LOST_WORKERS_LIMIT) -> Sim:
    """One worker after another goes down with e0001."""
    for number in range(count):
        assert not failed(world.run_state), number
        assert worker.held is not None
        assert worker.held.evaluation == "e0001"
        worker = goes_down(world, worker)
    return worker


def failed(run_state: RunState) -> list[Evaluation]:
    return list(run_state.of_state(EvaluationState.FAILED))


def test_an_evaluation_fails_with_its_fifth_lost_worker_and_is_named() -> None:
    world, worker = at_work()
    worker = lose_workers(world, worker)
    (evaluation,) = failed(world.run_state)
    assert evaluation.id == "e0001"
    assert evaluation.message.startswith("5 workers were lost while they evaluated it (a): ")
    assert evaluation.failed_by_lost_workers
    assert world.run_state.calls.count(TellCall("e0001", rejected=True)) == 1
    assert worker.held is not None
    assert worker.held.evaluation == "e0002", "the worker goes on with another"
    shown_by = console()
    with shown_by.capture() as shown:
        shown_by.print(render(journal_snapshot(world.run_state)))
    assert "e0001 is given up: 5 workers were lost" in shown.get()


@pytest.mark.parametrize("method", ["ap-bmm", "sobol"])
def test_the_method_avoids_it_and_replaces_it(method: str) -> None:
    """Its place in the design would block the search, and its place in the budget the end."""
    world, worker = at_work(algorithm={"name": method})
    lose_workers(world, worker)
    last = max(i for i, r in enumerate(world.stored) if isinstance(r.event, EvaluationFailed))
    run_state = RunState().replay(world.stored[: last + 1])
    assert [e.id for e in pending_evaluations(run_state)] == ["e0002"]
    assert initial_missing(run_state, world_spec(budget=BUDGET)) == 1
    pending = tuple(e.vector for e in pending_evaluations(run_state))
    wanted = BUDGET["evaluations"] - 1 if method == "sobol" else 1
    request = AskRequest(
        search_arguments(run_state), history_of(run_state), pending, BUDGET["evaluations"]
    )
    reply = OptimiserSession().reply(request)
    assert len(reply.vectors) == wanted, "all but what is in flight; of a design what it lacks"
    assert not {e.vector for e in run_state.evaluations.values()} & set(reply.vectors)


def test_between_the_last_loss_and_the_failure_it_is_neither_pending_nor_leased() -> None:
    world, worker = at_work()
    lose_workers(world, worker)
    last = max(i for i, r in enumerate(world.stored) if isinstance(r.event, Lost))
    run_state = RunState().replay(world.stored[: last + 1])
    assert run_state.evaluations["e0001"].state is EvaluationState.QUEUED
    assert "e0001" not in {e.id for e in pending_evaluations(run_state)}
    leases = [r.event for r in world.stored if isinstance(r.event, Leased)]
    assert sum(lease.evaluation == "e0001" for lease in leases) == LOST_WORKERS_LIMIT


class InBatches(World):
    """A run of a method that proposes two vectors at a time."""

    def situation(self) -> Situation:
        return replace(super().situation(), batch=2)


class WithoutMore(World):
    """A run of a method with no more points than its budget, as a grid has."""

    def situation(self) -> Situation:
        asked = self.run_state.count()
        return replace(super().situation(), exhausted=asked >= BUDGET["evaluations"])


def end_with_one_worker(world: World) -> FinishRun:
    """How a run ends whose only worker goes down with e0004 as often as it gets it."""
    worker = world.join("a")
    for _ in range(40 * LOST_WORKERS_LIMIT):
        if world.end is not None:
            break
        if worker.held is not None and worker.held.evaluation == "e0004":
            worker = goes_down(world, worker)
        elif worker.held is not None:
            worker.finish()
        worker.beat()
        world.exchange()
    assert world.end is not None
    return world.end


@pytest.mark.parametrize("kind", [World, InBatches])
def test_the_search_goes_on_with_one_worker_and_another_vector(kind: type[World]) -> None:
    world = kind(budget=BUDGET)
    end = end_with_one_worker(world)
    assert end == FinishRun(f"{BUDGET['evaluations']} evaluations completed")
    assert [e.id for e in failed(world.run_state)] == ["e0004"]


def test_a_method_without_more_points_ends_without_it() -> None:
    world = WithoutMore(budget=BUDGET)
    end = end_with_one_worker(world)
    assert end == FinishRun("the method has no more to try after 5 evaluations")


def test_a_worker_lost_less_often_costs_nothing() -> None:
    world, worker = at_work()
    lose_workers(world, worker, LOST_WORKERS_LIMIT - 1)
    world.settle()
    assert "e0001" in world.run_state.completed
    assert len(world.run_state.completed) == BUDGET["evaluations"]


def test_workers_that_say_goodbye_are_not_lost() -> None:
    world, worker = at_work()
    for _ in range(2 * LOST_WORKERS_LIMIT):
        assert worker.held is not None
        worker.bye()
        world.exchange()
        worker = goes_down(world, worker)
    assert world.run_state.evaluations["e0001"].lost_workers == 0
    assert len(world.run_state.evaluations["e0001"].attempts) > LOST_WORKERS_LIMIT


def test_workers_that_bring_answers_before_they_are_lost_do_not_count() -> None:
    """A fleet that is preempted often gets through a long evaluation, bit by bit."""
    world, worker = at_work(algorithm={"name": "sobol"})
    for number in range(len(PROMPTS)):
        assert worker.held is not None
        assert (worker.held.evaluation, worker.held.kept) == ("e0001", number)
        world.pass_time(2)  # in which it fetches what is kept
        worker.answer()
        world.pass_time(2)
        worker = goes_down(world, worker)
    evaluation = world.run_state.evaluations["e0001"]
    assert len(evaluation.attempts) > LOST_WORKERS_LIMIT
    assert evaluation.lost_workers == 0
    lose_workers(world, worker)
    assert failed(world.run_state) == [evaluation], "there was nothing left to answer"
    assert RunState().replay(world.stored) == world.run_state


def test_references_never_fail_for_lost_workers() -> None:
    world, worker = at_work(on="thinking")
    for _ in range(LOST_WORKERS_LIMIT + 1):
        assert worker.held is not None
        assert worker.held.evaluation == "thinking"
        worker = goes_down(world, worker)
    assert world.run_state.evaluations["thinking"].lost_workers > LOST_WORKERS_LIMIT
    assert not failed(world.run_state)


def test_a_run_does_not_end_because_all_workers_are_preempted() -> None:
    """More evaluations fail than ``budget.failures`` allows, and none of them counts."""
    world, worker = at_work()
    for _ in range(60 * LOST_WORKERS_LIMIT):
        worker = goes_down(world, worker)
        if len(failed(world.run_state)) > BUDGET["failures"]:
            break
    assert len(failed(world.run_state)) > BUDGET["failures"]
    assert all(e.failed_by_lost_workers for e in failed(world.run_state))
    assert world.end is None
    world.settle()
    assert world.end == FinishRun(f"{BUDGET['evaluations']} evaluations completed")


def test_a_journal_in_which_an_evaluation_was_set_aside_goes_on() -> None:
    """Versions before wrote no failure, leased it again, and might get a result."""
    world, worker = at_work()
    lose_workers(world, worker)
    last = max(i for i, r in enumerate(world.stored) if isinstance(r.event, Lost))
    old = world.stored[: last + 1]
    world.stored = [*old]
    world.restart()
    world.record(
        Leased(evaluation="e0001", attempt=6, lease="e0001.6.x", worker="gone", boot="gone")
    )
    world.commit()
    calls = len(world.run_state.calls)
    world.restart()
    assert len(world.run_state.calls) == calls
    assert "e0001" not in {e.id for e in pending_evaluations(world.run_state)}
    world.join("b")
    world.settle()
    assert world.end == FinishRun(f"{BUDGET['evaluations']} evaluations completed")
    assert [e.id for e in failed(world.run_state)] == ["e0001"]
    assert world.run_state.calls.count(TellCall("e0001", rejected=True)) == 1
