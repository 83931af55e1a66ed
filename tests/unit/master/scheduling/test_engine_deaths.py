"""Engines that die: what is put down to the vector, and what to the worker."""

from __future__ import annotations

import pytest

from apbmm_common.protocol.messages import Failed
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.scheduling.policy.decisions import FinishRun
from protocol_world import Sim, World

DIED = Failed(fault="engine", message="the process died")


def begun(*names: str) -> tuple[World, list[Sim]]:
    """A run whose workers hold work."""
    world = World()
    workers = [world.join(name) for name in names]
    world.exchange()
    world.exchange()
    return world, workers


def working(*names: str) -> tuple[World, list[Sim]]:
    """A run whose workers have evaluated something and hold vectors of the initial design."""
    world, workers = begun(*names)
    for _ in range(3):
        for worker in workers:
            if worker.held is not None and worker.held.evaluation[0] != "e":
                worker.finish()
        world.exchange()
    assert all(w.held is not None and w.held.evaluation[0] == "e" for w in workers)
    return world, workers


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_a_vector_that_kills_engines_in_two_attempts_is_given_up_and_blames_no_worker(
    names: tuple[str, ...],
) -> None:
    world, workers = working(*names)
    (held,) = [w.held.evaluation for w in workers[:1] if w.held is not None]
    for _ in range(20):
        for worker in workers:
            if worker.held is not None:
                worker.finish(DIED if worker.held.evaluation == held else None)
            worker.beat()
            world.exchange()
    evaluation = world.run_state.evaluations[held]
    assert evaluation.state is EvaluationState.FAILED
    assert [a.fault for a in evaluation.attempts] == ["engine", "engine"]
    assert {a.worker for a in evaluation.attempts} == {*names}
    where = ", ".join(a.worker for a in evaluation.attempts)
    assert evaluation.message == f"engines died on it 2 times (on {where}): the process died"
    assert world.end == FinishRun("4 evaluations completed")
    assert not any(w.quarantined for w in world.fleet.workers.values())


def test_an_engine_that_never_worked_speaks_against_its_worker() -> None:
    world, (a, b) = begun("a", "b")
    for _ in range(2):
        a.finish(DIED)
        world.exchange()
    assert world.fleet.workers["a"].quarantined == "the process died"
    assert list(world.run_state.with_failed_attempts()) == []
    world.restart()
    a.beat()
    b.beat()
    world.settle()
    assert world.end == FinishRun("4 evaluations completed")


def test_the_sources_are_never_blamed_for_an_engine() -> None:
    world, (a,) = begun("a")
    a.finish()  # the measurement
    world.exchange()
    a.finish()  # one reference
    world.exchange()
    assert a.held is not None
    assert a.held.evaluation == "instruct"
    a.finish(DIED)
    world.exchange()
    (attempt,) = [x for x in world.run_state.evaluations["instruct"].attempts if x.fault]
    assert attempt.fault == "infrastructure"


def test_what_is_known_of_an_engine_outlives_the_master() -> None:
    world, (a,) = working("a")
    assert a.held is not None
    first = a.held.evaluation
    a.finish(DIED)
    world.exchange()
    world.restart()
    a.beat()
    world.exchange()
    assert a.held is not None
    assert a.held.evaluation == first
    a.finish(DIED)
    world.exchange()
    assert world.run_state.evaluations[first].state is EvaluationState.FAILED
