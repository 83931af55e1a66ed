"""Vectors that kill engines or whole hosts, and what is broken without them, in any order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apbmm_common.protocol.messages import Failed
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import LOST_WORKERS_LIMIT
from apbmm_master.journal.state.worker_sessions import SUSPECT_VECTORS
from apbmm_master.scheduling.policy.decisions import FinishRun
from fault_accounts import scaled
from protocol_world import Sim, World


def work_through(
    world: World, workers: list[Sim], order: random.Random, dies: Callable[[Sim], bool]
) -> None:
    """Workers finish in a random order, with a death of the engine where ``dies`` says so."""
    for _ in range(400):
        if world.end is not None:
            return
        world.now += 1.0
        busy = [worker for worker in workers if worker.held is not None]
        if busy:
            worker = order.choice(busy)
            worker.finish(Failed(fault="engine", message="gone") if dies(worker) else None)
        for worker in workers:
            worker.beat()
        world.exchange()


POISONOUS = st.sets(st.integers(1, 12), max_size=2)
CREW = st.integers(1, 4)
ORDER = st.randoms(use_true_random=False)
OFTEN = settings(max_examples=scaled(1200, 60), deadline=None)
BUDGET = {"evaluations": 12, "initial": 2, "failures": 4}


@pytest.mark.slow
@given(poisonous=POISONOUS, crew=CREW, order=ORDER)
@OFTEN
def test_vectors_that_kill_every_engine_are_given_up_and_harm_no_worker(
    poisonous: set[int], crew: int, order: random.Random
) -> None:
    world = World(budget=BUDGET)
    workers = [world.join(f"w{number}") for number in range(crew)]
    worked: set[str] = set()

    def dies(worker: Sim) -> bool:
        assert worker.held is not None
        name = worker.held.evaluation
        if name[0] == "e" and int(name[1:]) in poisonous and worker.name in worked:
            return True
        worked.update({worker.name} if name != "measure" else ())
        return False

    work_through(world, workers, order, dies)
    assert world.end == FinishRun("12 evaluations completed")
    assert not any(worker.quarantined for worker in world.fleet.workers.values())
    failed = {e.id for e in world.run_state.of_state(EvaluationState.FAILED)}
    assert failed <= {f"e{number:04d}" for number in poisonous}


@given(good=st.integers(0, 5), order=ORDER)
@settings(max_examples=scaled(800, 40), deadline=None)
def test_an_engine_that_breaks_for_good_is_quarantined_and_no_vector_is_blamed(
    good: int, order: random.Random
) -> None:
    world = World(budget=BUDGET)
    broken, sound = world.join("broken"), world.join("sound")
    finished = [0]

    def dies(worker: Sim) -> bool:
        finished[0] += worker is broken
        return worker is broken and finished[0] > good

    work_through(world, [broken, sound], order, dies)
    assert world.end == FinishRun("12 evaluations completed")
    assert list(world.run_state.of_state(EvaluationState.FAILED)) == []
    deaths = finished[0] - good
    assert deaths <= SUSPECT_VECTORS + 2
    assert bool(world.fleet.workers["broken"].quarantined) or deaths < SUSPECT_VECTORS + 2


def go_down_and_come_back(world: World, worker: Sim) -> Sim:
    """The host goes down in the middle of an evaluation, and starts its worker anew."""
    worker.alive = False
    worker.says.clear()
    return world.join(worker.name)


def until_the_end(
    world: World, order: random.Random, goes_down: Callable[[Sim], bool]
) -> Iterator[None]:
    """Workers finish in a random order, or are lost where ``goes_down`` says so; a turn a step."""
    for _ in range(2000):
        if world.end is not None:
            return
        world.now += 1.0
        busy = [worker for worker in world.alive if worker.held is not None]
        if busy:
            worker = order.choice(busy)
            if goes_down(worker):
                go_down_and_come_back(world, worker)
            else:
                worker.finish()
        for worker in world.alive:
            worker.beat()
        world.exchange()
        yield


@pytest.mark.slow
@given(poisonous=POISONOUS, crew=CREW, order=ORDER)
@OFTEN
def test_vectors_that_take_hosts_down_fail_and_the_run_ends_without_them(
    poisonous: set[int], crew: int, order: random.Random
) -> None:
    world = World(budget=BUDGET)
    for number in range(crew):
        world.join(f"w{number}")
    names = {f"e{number:04d}" for number in poisonous}

    def goes_down(worker: Sim) -> bool:
        return worker.held is not None and worker.held.evaluation in names

    for _ in until_the_end(world, order, goes_down):
        pass
    assert world.end == FinishRun("12 evaluations completed")
    failed = list(world.run_state.of_state(EvaluationState.FAILED))
    assert {e.id for e in failed} <= names
    assert all(e.failed_by_lost_workers for e in failed)
    evaluations = world.run_state.evaluations
    tried = [evaluations[name] for name in names if name in evaluations]
    assert all(e.lost_workers <= LOST_WORKERS_LIMIT for e in tried)


@pytest.mark.slow
@given(share=st.floats(0.0, 0.7), crew=CREW, order=ORDER)
@OFTEN
def test_workers_that_are_preempted_do_not_end_a_run(
    share: float, crew: int, order: random.Random
) -> None:
    """However often that happens; an evaluation fails with its fifth lost worker, not before."""
    world = World(budget=BUDGET)
    for number in range(crew):
        world.join(f"w{number}")

    for _ in until_the_end(world, order, lambda _: order.random() < share):
        pass
    assert world.end == FinishRun("12 evaluations completed")
    leased = [e for e in world.run_state.of_budget() if e.attempts]
    left = [e for e in leased if e.state is not EvaluationState.DONE]
    assert all(e.state is EvaluationState.FAILED for e in left)
    assert all(e.lost_workers == LOST_WORKERS_LIMIT for e in left)
