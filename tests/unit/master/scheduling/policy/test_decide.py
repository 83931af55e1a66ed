from __future__ import annotations

from typing import Any, TypeVar

import pytest

from apbmm_common.protocol.messages import Failed
from apbmm_master.journal.events import Lost
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.scheduling.policy.decide import decide
from apbmm_master.scheduling.policy.decisions import (
    AskForVectors,
    Decision,
    FailEvaluation,
    FinishRun,
    GiveUpLease,
    GrantLease,
    RemoveWorker,
)
from apbmm_master.scheduling.policy.liveness import idle_workers
from apbmm_master.scheduling.policy.situation import Situation
from apbmm_master.scheduling.policy.standstill import standstill
from protocol_world import TIMINGS, Sim, World

VECTOR = Failed(fault="vector", message="NaN in layer 3")
ENGINE = Failed(fault="infrastructure", message="the engine died")


def begun(*names: str, **changes: Any) -> tuple[World, list[Sim]]:
    """A run whose workers hold work."""
    world = World(**changes)
    workers = [world.join(name) for name in names]
    world.exchange()
    world.exchange()
    return world, workers


D = TypeVar("D", bound=Decision)


def decisions(world: World, kind: type[D], **situation: Any) -> list[D]:
    fields = {**vars(world.situation()), **situation}
    return [
        d for d in decide(world.run_state, world.fleet, Situation(**fields)) if isinstance(d, kind)
    ]


def test_the_measurement_and_the_references_come_first() -> None:
    _, workers = begun("a", "b", "c", "d")
    held = [worker.held.evaluation if worker.held else "" for worker in workers]
    assert held == ["measure", "thinking", "instruct", "e0001"]


def test_a_worker_with_full_hands_gets_nothing() -> None:
    world, _ = begun("a")
    assert decisions(world, GrantLease) == []
    assert not idle_workers(world.run_state, world.fleet, world.situation())


def test_what_a_worker_has_come_back_to_deliver_is_leased_to_no_other() -> None:
    """Its result is on its way, and another worker's engine would be started for nothing."""
    world, (a, b) = begun("a", "b")
    assert a.held is not None
    lost = a.held
    world.record(Lost(evaluation=lost.evaluation, lease=lost.lease, reason="silent"))
    world.fleet.workers["a"].held.clear()
    world.fleet.workers["a"].delivering.add(lost.lease)
    b.finish()
    world.collect()
    for identity, message in world.on_the_way:
        world.handlers.handle(identity, message, world.now)
    assert [d.evaluation for d in decisions(world, GrantLease)] == ["instruct"]


def test_a_silent_worker_gets_nothing() -> None:
    world, (a,) = begun("a")
    a.finish()
    world.now += TIMINGS["suspect"]
    assert decisions(world, GrantLease) == []
    world.exchange()
    assert a.held is not None


def test_nothing_is_asked_for_before_the_sources_are_known() -> None:
    world = World()
    assert decisions(world, AskForVectors) == []


def test_search_waits_for_references_and_measurement() -> None:
    world, workers = begun("a", "b", budget={"evaluations": 4, "initial": 1})
    assert [e.id for e in world.run_state.evaluations.values()][-1] == "e0001"
    workers[0].finish()
    world.exchange()
    workers[0].finish()  # measure and instruct are done, thinking still runs
    world.collect()
    assert world.run_state.count(purposes=("search",)) == 0
    world.settle()
    assert world.run_state.count(purposes=("search",)) == 3


def test_the_last_point_of_the_initial_design_keeps_no_worker_idle() -> None:
    """64 workers, of which one has a design point that takes long; the search does not wait."""
    world = World(budget={"evaluations": 400, "initial": 8})
    workers = [world.join(f"w{number:02d}") for number in range(64)]
    world.exchange()
    slow = next(w for w in workers if w.held is not None and w.held.evaluation == "e0008")
    for _ in range(2):  # the measurement, the references and the other design points come back
        for worker in workers:
            if worker.held is not None and worker is not slow:
                worker.finish()
        world.exchange()
    assert slow.held is not None
    assert slow.held.evaluation == "e0008"
    others = [w.held.evaluation for w in workers if w.held is not None and w is not slow]
    assert len(set(others)) == 63
    assert {world.run_state.evaluations[name].purpose for name in others} == {"search"}
    assert idle_workers(world.run_state, world.fleet, world.situation()) == []
    for attempt in range(2):  # fails for good
        holder = next(w for w in workers if w.held is not None and w.held.evaluation == "e0008")
        holder.finish(VECTOR)
        world.exchange()
        if attempt == 0:
            workers[0].finish()
            world.exchange()
    assert world.run_state.evaluations["e0008"].state is EvaluationState.FAILED
    assert world.run_state.count(purposes=("initial",)) == 8


def test_the_budget_is_not_overspent_when_it_is_lowered() -> None:
    world, (a,) = begun("a", budget={"evaluations": 4, "initial": 4})
    assert world.run_state.spec is not None
    budget = world.run_state.spec.budget.model_copy(update={"evaluations": 1})
    world.run_state.spec = world.run_state.spec.model_copy(update={"budget": budget})
    for _ in range(3):
        a.finish()
        world.exchange()
    assert a.held is not None
    assert a.held.evaluation == "e0001"
    a.finish()
    world.exchange()
    assert world.end == FinishRun("1 evaluations completed")


def test_draining_gives_and_asks_nothing() -> None:
    world, (a,) = begun("a")
    a.finish()
    world.collect()
    for identity, message in world.on_the_way:
        world.handlers.handle(identity, message, world.now)
    assert decisions(world, GrantLease) != []
    assert (
        decide(world.run_state, world.fleet, Situation(world.now, 0.0, False, False, None, True))
        == []
    )


def test_a_lease_outlives_silence_for_the_grace_and_not_longer() -> None:
    world, (a,) = begun("a")
    assert a.held is not None
    grace = TIMINGS["unreachable"] + TIMINGS["orphan_grace"]
    world.now += grace - 0.1
    assert decisions(world, GiveUpLease) == []
    world.now += 0.1
    assert decisions(world, GiveUpLease) == [
        GiveUpLease("measure", a.held.lease, "a was not heard again")
    ]


def test_a_new_boot_frees_what_the_old_one_held_at_once() -> None:
    world, _ = begun("a")
    new = world.join("a")
    world.exchange()
    assert new.held is not None
    assert (new.held.evaluation, new.held.attempt) == ("measure", 2)
    assert world.run_state.evaluations["measure"].attempts[0].state == "lost"


def test_a_new_boot_that_brings_the_result_frees_nothing() -> None:
    world, (a,) = begun("a")
    a.finish()
    a.says.clear()  # the result is stored, and the process dies before it is sent
    new = world.join("a")
    world.exchange()
    new.beat()
    world.exchange()
    attempts = world.run_state.evaluations["measure"].attempts
    assert [attempt.state for attempt in attempts] == ["done"]


def test_a_restarted_master_waits_for_the_reconcile_window() -> None:
    world, (a, b) = begun("a", "b")
    a.alive = b.alive = False
    world.restart()
    world.now += TIMINGS["reconcile"] - 0.1
    assert decisions(world, GiveUpLease) == []
    world.now += 0.1
    assert len(decisions(world, GiveUpLease)) == 2


def test_a_restarted_master_takes_back_who_still_holds_its_lease() -> None:
    world, (a,) = begun("a")
    world.restart()
    a.beat()
    world.exchange()
    world.pass_time(2 * TIMINGS["reconcile"])
    assert [x.state for x in world.run_state.evaluations["measure"].attempts] == ["running"]


def test_a_dead_worker_is_dismissed_when_nothing_is_expected_of_it() -> None:
    world, (a, b) = begun("a", "b")
    a.finish()
    world.collect()
    world.turn()  # a has delivered, is given the next lease, and dies
    a.alive = False
    world.now += TIMINGS["unreachable"]
    b.beat()
    world.exchange()
    assert decisions(world, RemoveWorker) == []
    world.pass_time(TIMINGS["orphan_grace"] + 2)
    assert list(world.fleet.workers) == ["b"]
    stay = next(p for p in world.run_state.sessions.stays if p.worker == "a")
    assert stay.left is not None


def test_an_evaluation_lost_with_its_worker_is_done_by_another() -> None:
    world, (a, _) = begun("a", "b")
    a.alive = False
    lost = a.held
    assert lost is not None
    world.pass_time(TIMINGS["unreachable"] + TIMINGS["orphan_grace"] + 3)
    world.settle()
    assert world.end is not None
    assert not world.end.failed
    attempts = world.run_state.evaluations[lost.evaluation].attempts
    assert [(x.worker, x.state) for x in attempts] == [("a", "lost"), ("b", "done")]


def test_a_failing_vector_is_tried_on_another_worker_and_given_up() -> None:
    world, (a, b) = begun("a", "b")
    a.finish(VECTOR)
    world.exchange()
    evaluation = world.run_state.evaluations["measure"]
    assert [e.id for e in world.run_state.with_failed_attempts()] == ["measure"]
    assert a.held is not None
    assert a.held.evaluation != "measure"
    b.finish()
    world.exchange()
    assert b.held is not None
    assert (b.held.evaluation, b.held.attempt) == ("measure", 2)
    assert not b.held.fresh
    b.finish(VECTOR)
    world.exchange()
    assert evaluation.state is EvaluationState.FAILED
    assert world.end == FinishRun("measure could not be measured: NaN in layer 3", failed=True)


def test_the_only_worker_tries_again_on_a_fresh_engine() -> None:
    world, (a,) = begun("a")
    a.finish(VECTOR)
    world.exchange()
    assert a.held is not None
    assert (a.held.evaluation, a.held.attempt, a.held.fresh) == ("measure", 2, True)


def test_a_dead_worker_does_not_keep_the_others_from_trying_again() -> None:
    world, (a, b) = begun("a", "b")
    b.alive = False
    a.finish(VECTOR)
    world.exchange()
    world.pass_time(TIMINGS["suspect"] + 1, silent=[b])
    assert decisions(world, FailEvaluation) == []
    while a.held is not None and (a.held.evaluation, a.held.attempt) != ("measure", 2):
        a.finish()
        world.exchange()
    assert a.held is not None


def test_engines_that_die_never_count_against_the_vector() -> None:
    world, (a, b) = begun("a", "b")
    a.finish(ENGINE)
    world.exchange()
    for _ in range(4):
        for worker in (a, b):
            if worker.held is not None and worker.held.evaluation == "measure":
                worker.finish(ENGINE)
                world.exchange()
            elif worker.held is not None:
                worker.finish()
                world.exchange()
    assert world.run_state.evaluations["measure"].state is not EvaluationState.FAILED
    assert list(world.run_state.with_failed_attempts()) == []


def test_two_failures_in_a_row_put_a_worker_in_quarantine_over_restarts_too() -> None:
    world, (a, b) = begun("a", "b")
    for _ in range(2):
        assert a.held is not None
        a.finish(ENGINE)
        world.exchange()
    assert a.held is None
    assert world.fleet.workers["a"].quarantined == "the engine died"
    world.restart()
    a.beat()
    b.beat()
    world.exchange()
    world.exchange()
    assert world.fleet.workers["a"].quarantined == "the engine died"
    assert a.held is None
    world.settle()
    assert world.end is not None
    assert not world.end.failed


def test_too_many_failures_end_the_run() -> None:
    world, (a, b) = begun("a", "b", budget={"evaluations": 4, "initial": 2, "failures": 1})
    for _ in range(60):
        for worker in (a, b):
            if worker.held is not None:
                good = worker.held.evaluation[0] != "e"
                worker.finish(None if good else VECTOR)
                world.exchange()
        if world.end is not None or (a.held is None and b.held is None):
            break
    assert world.end == FinishRun("2 vectors failed, more than the budget allows", failed=True)


@pytest.mark.parametrize(("exhausted", "over"), [(True, True), (False, False)])
def test_a_method_with_nothing_left_ends_the_run(exhausted: bool, over: bool) -> None:
    world, (a,) = begun("a", budget={"evaluations": 9, "initial": 1})
    for _ in range(4):
        assert a.held is not None
        a.finish()
        world.collect()
        for identity, message in world.on_the_way:
            world.handlers.handle(identity, message, world.now)
        world.on_the_way.clear()
        if world.run_state.completed:
            break
        world.turn()
        world.deliver()
    assert world.run_state.completed == ["e0001"]
    ends = decisions(world, FinishRun, exhausted=exhausted)
    assert bool(ends) is over


def test_a_worker_that_announces_a_result_and_is_never_heard_again_is_not_waited_for() -> None:
    world, (a,) = begun("a")
    assert a.held is not None
    lease = a.held.lease
    a.finish()
    a.says.clear()
    again = world.join("a")  # says that its disk holds the result, and dies
    world.collect()
    world.turn()
    again.alive = False
    assert decisions(world, GiveUpLease) == []
    world.now += TIMINGS["unreachable"] + TIMINGS["orphan_grace"]
    assert decisions(world, GiveUpLease) == [GiveUpLease("measure", lease, "a was not heard again")]


def test_a_run_that_nobody_can_go_on_with_says_so_and_how_to_go_on() -> None:
    world, (a, b) = begun("a", "b")
    assert standstill(world.run_state, world.fleet) == ""
    for worker in (a, b, a, b):
        if worker.held is not None:
            worker.finish(ENGINE)
            world.exchange()
    reason = standstill(world.run_state, world.fleet)
    assert "a (quarantined), b (quarantined): the engine died" in reason
    assert "restarting a worker ends its quarantine" in reason
    again = world.join("a")
    world.exchange()
    assert again.held is not None
    assert standstill(world.run_state, world.fleet) == ""
