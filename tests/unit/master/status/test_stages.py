"""Seconds by stage and the engines' busy share, over a run whose clock is the test's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apbmm_master.journal.events import ResultRecorded
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.status.stages import stage_line, stage_summary
from protocol_world import World, measurement

STAGES = {"load": 1.0, "evaluate": 16.0, "report": 1.0}


def finished(evaluations: int) -> World:
    """A run whose evaluations took 18 s each."""
    world = World(budget={"evaluations": evaluations, "initial": evaluations, "failures": 0})
    worker = world.join("a")
    while world.end is None:
        world.exchange()
        if worker.held is not None:
            world.now += 18.0
            body = measurement(0.5, 100.0).model_copy(update={"stages": STAGES})
            worker.finish(body if worker.held.evaluation.startswith("e") else None)
    return world


def test_stages_are_averaged_and_the_engine_was_busy_while_it_evaluated() -> None:
    """Each evaluation takes 18 s; then each is moved so that 2 s lie between two of them."""
    world = finished(5)
    summary = stage_summary(world.run_state)
    assert summary == {
        "evaluations": 5,
        "seconds": {"wait": 0.0, **STAGES},
        "engine_busy": pytest.approx(16 / 18),
    }
    assert list(summary["seconds"]) == ["wait", "load", "evaluate", "report"]
    assert stage_summary(RunState().replay(world.stored)) == summary

    apart, done = [], 0
    for record in world.stored:
        apart.append(replace(record, time=record.time + 2.0 * done))
        event = record.event
        done += isinstance(event, ResultRecorded) and event.evaluation.startswith("e")
    summary = stage_summary(RunState().replay(apart))
    assert summary["seconds"]["wait"] == 2.0
    assert summary["engine_busy"] == pytest.approx(5 * 16 / (5 * 18 + 4 * 2))
    assert stage_line(summary) == (
        "mean seconds: wait 2.00, load 1.00, evaluate 16.00, report 1.00; engines busy 81.6%"
    )


def test_the_pause_before_a_new_master_is_no_wait_and_not_busy() -> None:
    """Two evaluations of 18 s, in the first half of the second there was no master."""
    world = finished(2)
    (stay,) = world.run_state.sessions.stays
    leased = world.run_state.evaluations["e0002"].attempts[0].leased_at
    stays = [replace(stay, left=leased), replace(stay, joined=leased + 9.0, left=None)]
    world.run_state.sessions.stays[:] = stays
    summary = stage_summary(world.run_state)
    assert "wait" not in summary["seconds"]
    assert summary["engine_busy"] == pytest.approx((16 + 8) / (18 + 9))


def test_nothing_is_said_before_an_evaluation_is_complete() -> None:
    world = World()
    world.join("a")
    world.exchange()
    summary = stage_summary(world.run_state)
    assert (summary["evaluations"], summary["engine_busy"]) == (0, None)
    assert stage_line(summary) == ""
