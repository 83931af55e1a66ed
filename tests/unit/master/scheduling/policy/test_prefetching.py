"""Vectors are proposed ahead of need only where waiting would cost, and never for few workers."""

from __future__ import annotations

from typing import Any

import pytest

from apbmm_master.journal.events import Proposal, Proposed
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.scheduling.policy.asking import WAIT_WORTH_AVOIDING, vectors_to_prefetch
from apbmm_master.scheduling.policy.decide import decide
from apbmm_master.scheduling.policy.decisions import AskForVectors
from apbmm_master.scheduling.policy.situation import Situation
from protocol_world import LAYERS, Sim, World

SECONDS = 100.0
"""How long every evaluation of these runs takes."""


def searching(workers: int) -> World:
    """A search whose workers are all busy, and whose queue is empty."""
    budget = {"evaluations": 10 * workers, "initial": workers}
    world = World(budget=budget)
    for number in range(workers):
        world.join(f"w{number:03d}")
    for _ in range(20):
        for worker in world.workers:
            if worker.held is not None and not searches(world, worker):
                worker.finish()
        world.exchange()
    assert all(searches(world, worker) for worker in world.workers)
    assert world.run_state.count(EvaluationState.QUEUED) == 0
    world.run_state.durations[:] = [SECONDS] * len(world.run_state.durations)
    return world


def searches(world: World, worker: Sim) -> bool:
    """Whether a worker holds a vector of the search proper."""
    held = worker.held
    return held is not None and world.run_state.evaluations[held.evaluation].purpose == "search"


def asked(world: World, **situation: Any) -> int:
    """How many vectors the policy asks for."""
    now = Situation(**{**vars(world.situation()), **situation})
    asks = [
        d.count for d in decide(world.run_state, world.fleet, now) if isinstance(d, AskForVectors)
    ]
    return sum(asks)


@pytest.mark.parametrize("workers", [1, 4, 7])
def test_a_small_fleet_gets_what_the_latest_results_say(workers: int) -> None:
    world = searching(workers)
    assert vectors_to_prefetch(world.run_state, ask_seconds=10 * SECONDS, idle=0) == 0
    assert asked(world, ask_seconds=10 * SECONDS) == 0


@pytest.fixture(scope="module")
def many() -> World:
    """A fleet of 32."""
    return searching(32)


def test_a_short_wait_is_not_worth_a_stale_vector(many: World) -> None:
    assert asked(many, ask_seconds=WAIT_WORTH_AVOIDING * SECONDS) == 0


def test_as_many_are_ready_as_two_asks_need(many: World) -> None:
    # One worker comes free every 100 / 32 s, so 1.28 of them during two asks of 2 s each.
    assert asked(many, ask_seconds=2.0) == 2


def test_no_more_are_ready_than_the_fleet_allows(many: World) -> None:
    assert asked(many, ask_seconds=SECONDS) == 7


def test_evaluations_without_duration_are_no_division_by_zero(many: World) -> None:
    durations = list(many.run_state.durations)
    many.run_state.durations[:] = [0.0] * len(durations)
    assert asked(many, ask_seconds=1.0) == 7
    many.run_state.durations[:] = durations


def test_a_batch_is_never_proposed_ahead(many: World) -> None:
    assert asked(many, ask_seconds=SECONDS, batch=32) == 0


def test_nothing_is_proposed_ahead_before_anything_was_asked(many: World) -> None:
    assert asked(many) == 0


def test_what_waits_already_counts() -> None:
    world = searching(32)
    first = world.run_state.count() + 1
    proposals = tuple(
        Proposal(evaluation=f"e{number:04d}", vector=(0.5,) * LAYERS, key=f"{number}")
        for number in range(first, first + 3)
    )
    world.record(Proposed(purpose="search", proposals=proposals))
    world.commit()
    assert asked(world, ask_seconds=SECONDS) == 7 - 3


def test_the_budget_is_not_exceeded() -> None:
    world = searching(32)
    assert world.run_state.spec is not None
    spent = world.run_state.count()
    budget = world.run_state.spec.budget.model_copy(update={"evaluations": spent + 2})
    world.run_state.spec = world.run_state.spec.model_copy(update={"budget": budget})
    assert asked(world, ask_seconds=SECONDS) == 2
