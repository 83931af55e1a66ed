"""What status says of merges that are measured in steps."""

from __future__ import annotations

import io

from rich.console import Console

from apbmm.status.live.events import EventLines
from apbmm.status.live.view import LiveView
from apbmm.status.view import render
from apbmm_master.journal.assessment.estimate_checks import EstimateChecks, checks_of
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.status.snapshot import journal_snapshot
from protocol_world import World, world_spec
from stepped_merges import estimate

STEPS = {"enabled": True, "first": 0.4, "answered": 0.5}
BUDGET = {"evaluations": 6, "initial": 2, "failures": 3}


def settled(audits: float = 0.0) -> World:
    world = World(steps={**STEPS, "audits": audits}, budget=BUDGET)
    for name in ("a", "b"):
        world.join(name)
    world.settle()
    return world


def text_of(status: object) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(status)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_estimates_are_shown_as_such_with_what_they_have_cost() -> None:
    world = settled()
    status = journal_snapshot(world.run_state, now=world.now)
    steps = status["steps"]
    waiting = [e for e in world.run_state.evaluations.values() if e.step and e.body is None]
    assert [entry["id"] for entry in steps["estimates"]] == [e.id for e in waiting] != []
    (first, *_) = steps["estimates"]
    assert (first["answered"], first["answers"]) == (2, 10)
    assert first["tokens"] > 0
    assert first["gpu_seconds"] > 0
    assert not {entry["id"] for entry in steps["estimates"]} & {p["id"] for p in status["front"]}
    assert status["evaluations"]["paused"] == len(waiting)
    text = text_of(render(status))
    assert f"~{first['objectives'][0]:+.3f} ± {first['deviations'][0]:.3f}" in text
    assert f"{len(waiting)} paused" in text
    view = "\n".join(line.plain for line in LiveView(status).lines(160, 60))
    assert "after 2 of 10 answers" in view
    lines = list(EventLines().of(status))
    assert sum(line.startswith(f"{first['id']}  ") and "~" in line for line in lines) == 1


def test_an_estimate_says_which_limits_it_breaks() -> None:
    world = settled()
    world.run_state.spec = world_spec(at_most={"tokens": 110}, steps=STEPS, budget=BUDGET)
    status = journal_snapshot(world.run_state, now=world.now)
    found = {
        entry["id"]: (entry["metrics"]["sums"]["tokens"] > 110, entry["breaks"])
        for entry in status["steps"]["estimates"]
    }
    assert {beyond for beyond, _ in found.values()} == {True, False}
    assert all(breaks == ["tokens ≤ 110.0"] * beyond for beyond, breaks in found.values())
    text = text_of(render(status))
    assert "may break" in text
    lines = [line for line in EventLines().of(status) if "~" in line]
    said = {line.split()[0]: line.endswith("may break tokens ≤ 110.0") for line in lines}
    assert said == {name: beyond for name, (beyond, _) in found.items()}


def test_checks_count_the_means_within_their_intervals() -> None:
    world = settled(audits=1.0)
    completed = world.run_state.of_budget(EvaluationState.DONE)
    count = len([e for e in completed if e.estimate])
    assert checks_of(world.run_state) == EstimateChecks(count, 2 * count, 2 * count)
    worst = next(e for e in completed if e.estimate)
    worst.estimate = estimate((5.0, 0.01), (worst.estimate or {})["sums"]["tokens"])
    assert checks_of(world.run_state) == EstimateChecks(count, 2 * count, 2 * count - 1)
    status = journal_snapshot(world.run_state, now=world.now)
    assert f"{2 * count - 1} of {2 * count} means lay within" in text_of(render(status))


def test_merges_that_were_not_drawn_are_no_check() -> None:
    assert checks_of(settled(audits=0.0).run_state) == EstimateChecks()


def test_a_run_without_steps_has_nothing_of_them() -> None:
    world = World()
    world.join("a")
    world.settle()
    assert journal_snapshot(world.run_state, now=world.now)["steps"] is None
