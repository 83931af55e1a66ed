"""Vectors that kill engines, and engines that are broken, in any order of events."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from apbmm_common.messages import Failed
from apbmm_master.attendance import SUSPECTS
from apbmm_master.lifecycle import EvaluationState
from apbmm_master.policy import Finish
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


BUDGET = {"evaluations": 12, "initial": 2, "failures": 4}


@given(
    poisonous=st.sets(st.integers(1, 12), max_size=2),
    crew=st.integers(1, 4),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=scaled(1200, 60), deadline=None)
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
    assert world.end == Finish("12 evaluations completed")
    assert not any(worker.quarantined for worker in world.fleet.workers.values())
    failed = {e.id for e in world.ledger.of_state(EvaluationState.FAILED)}
    assert failed <= {f"e{number:04d}" for number in poisonous}


@given(good=st.integers(0, 5), order=st.randoms(use_true_random=False))
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
    assert world.end == Finish("12 evaluations completed")
    assert list(world.ledger.of_state(EvaluationState.FAILED)) == []
    deaths = finished[0] - good
    assert deaths <= SUSPECTS + 2
    assert bool(world.fleet.workers["broken"].quarantined) or deaths < SUSPECTS + 2
