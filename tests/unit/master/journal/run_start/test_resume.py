from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apbmm_common.errors import EXIT_USAGE, RunChangedError
from apbmm_common.run_file import RunSpec
from apbmm_master.journal.assessment.first_steps import answers_of_a_merge
from apbmm_master.journal.events import (
    AnyEvent,
    Finished,
    Record,
    RunStarted,
    SourcesVerified,
    SpecChanged,
)
from apbmm_master.journal.run_start.resume import begin_or_resume
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from protocol_world import DIGESTS, LAYERS, World, world_spec
from written_runs import repeated_sums, write_run

SPEC = world_spec().model_dump(mode="json")
STARTED = Record(1, 0.0, RunStarted(run="r", spec=SPEC))
VERIFIED = Record(2, 0.0, SourcesVerified(worker="a", layers=LAYERS, digests=DIGESTS))


def resumed(new: RunSpec, run_state: RunState | None = None) -> list[AnyEvent]:
    run_state = run_state or RunState().replay([STARTED, VERIFIED])
    events: list[AnyEvent] = []
    begin_or_resume(run_state, new, events.append)
    return events


def test_a_new_journal_begins_with_the_run() -> None:
    (event,) = resumed(world_spec(), RunState())
    assert isinstance(event, RunStarted)
    assert event.run.startswith("rehearsed-")
    assert RunSpec.model_validate(event.spec) == world_spec()


def test_the_same_run_file_records_nothing() -> None:
    assert resumed(world_spec()) == []


ALLOWED: dict[str, dict[str, Any]] = {
    "budget.evaluations": {"budget": {"evaluations": 50, "initial": 2, "failures": 3}},
    "budget.patience": {"budget": {"evaluations": 4, "initial": 2, "failures": 3, "patience": 9}},
    "budget.patience_growth": {
        "budget": {"evaluations": 4, "initial": 2, "failures": 3, "patience_growth": 0.1}
    },
    "budget.gpu_hours": {
        "budget": {"evaluations": 4, "initial": 2, "failures": 3, "gpu_hours": 5.0}
    },
    "budget.generated_tokens": {
        "budget": {"evaluations": 4, "initial": 2, "failures": 3, "generated_tokens": 5000}
    },
    "steps.enabled": {"steps": {"enabled": True}},
    "budget.failures": {"budget": {"evaluations": 4, "initial": 2, "failures": 9}},
    "timings.stall": {"timings": {"stall": 5.0}},
    "sources.thinking": {"sources": {"thinking": "/moved"}},
    "benchmarks.0.path": {"benchmarks": [{"name": "sums", "adapter": "sums", "path": "/moved"}]},
}


@pytest.mark.parametrize(("key", "changes"), ALLOWED.items(), ids=ALLOWED.keys())
def test_what_may_change_is_recorded(key: str, changes: dict[str, Any]) -> None:
    base = world_spec()
    section = next(iter(changes))
    new = world_spec()
    if section == "timings":
        new = base.model_copy(update={"timings": base.timings.model_copy(update={"stall": 5.0})})
    else:
        new = world_spec(**changes)
    (event,) = resumed(new)
    assert isinstance(event, SpecChanged)
    assert event.keys == (key,)
    assert RunSpec.model_validate(event.spec) == new


def test_how_steps_are_measured_means_nothing_while_they_are_off() -> None:
    """A default that a later version changes does not take up a run that has ended."""
    assert resumed(world_spec(steps={"answered": 0.5, "first": 0.2})) == []
    (event,) = resumed(world_spec(steps={"enabled": True, "answered": 0.5}))
    assert isinstance(event, SpecChanged)
    assert event.keys == ("steps.answered", "steps.enabled")


def stopping_run(**steps: Any) -> RunSpec:
    return world_spec(algorithm={"name": "ap-bmm-plus"}, steps=steps)


def begun(spec: RunSpec, **left_out: bool) -> RunState:
    """A run that has read its sources; ``left_out`` names tables that its journal has not."""
    table = spec.model_dump(mode="json")
    kept = {name: value for name, value in table.items() if name not in left_out}
    return RunState().replay([Record(1, 0.0, RunStarted(run="r", spec=kept)), VERIFIED])


def test_a_run_that_stopped_no_beaten_merge_goes_on_so_with_an_unchanged_run_file() -> None:
    """As all did whose run file did not ask for it, before that was the default."""
    today = stopping_run()
    assert today.steps.stop_beaten
    assert resumed(today, begun(today)) == []
    for earlier in (begun(stopping_run(stop_beaten=False)), begun(today, steps=True)):
        assert earlier.spec is not None
        assert earlier.spec.steps.stop_beaten is False
        assert resumed(today, earlier) == []
        (event,) = resumed(stopping_run(stop_beaten=True), earlier)
        assert isinstance(event, SpecChanged)
        assert event.keys == ("steps.stop_beaten",)
        (event,) = resumed(stopping_run(enabled=True), earlier)
        assert isinstance(event, SpecChanged)
        assert event.keys == ("steps.enabled",)


def test_a_run_file_ends_that_beaten_merges_are_stopped() -> None:
    (event,) = resumed(stopping_run(stop_beaten=False), begun(stopping_run()))
    assert isinstance(event, SpecChanged)
    assert event.keys == ("steps.stop_beaten",)
    assert RunSpec.model_validate(event.spec).steps.stop_beaten is False


def test_another_number_of_answers_to_each_question_is_another_run() -> None:
    """But for the confirmation, which may ask as often as it likes when a run is over."""
    twice = repeated_sums(2)
    started = RunStarted(run="r", spec=world_spec(**twice).model_dump(mode="json"))
    run_state = RunState().replay([Record(1, 0.0, started), VERIFIED])
    with pytest.raises(RunChangedError, match=r"in benchmarks\.0\.repeats"):
        resumed(world_spec(**repeated_sums(3)), run_state)
    (event,) = resumed(world_spec(**twice, confirm={"repeats": 4}), run_state)
    assert isinstance(event, SpecChanged)
    assert event.keys == ("confirm.repeats",)


def test_every_forbidden_change_is_named_at_once() -> None:
    new = world_spec(
        seed=4,
        generation={"max_tokens": 32},
        budget={"evaluations": 4, "initial": 3, "failures": 3},
        algorithm={"name": "sobol"},
        benchmarks=[{"name": "sums", "adapter": "other", "path": "/none/sums"}],
    )
    with pytest.raises(RunChangedError) as caught:
        resumed(new)
    assert caught.value.exit_code == EXIT_USAGE
    named = caught.value.message.rsplit(" in ", 1)[1].split(", ")
    assert named == [
        "algorithm.name", "benchmarks.0.adapter", "budget.initial", "generation.max_tokens", "seed",
    ]  # fmt: skip


def test_objectives_may_be_mended_until_the_search_has_used_them() -> None:
    """An expert that is the worse of the two ends a run before that; nothing measured is lost."""
    swapped = world_spec().model_dump(mode="json")
    one, two = swapped["objectives"][0]["expert"], swapped["objectives"][0]["vanilla"]
    swapped["objectives"][0] |= {"expert": two, "vanilla": one}
    mended = RunSpec.model_validate(swapped)
    (event,) = resumed(mended)
    assert isinstance(event, SpecChanged)
    assert event.keys == ("objectives.0.expert", "objectives.0.vanilla")
    world = World()
    world.join("a")
    world.settle()
    assert any(ask.purpose == "search" for ask in world.run_state.asks)
    with pytest.raises(RunChangedError, match=r"in objectives\.0\.expert"):
        resumed(mended, world.run_state)


def test_anything_may_be_mended_before_a_worker_could_begin() -> None:
    """What a worker finds wrong with the run file as it prepares costs no run directory."""
    mended = world_spec(generation={"context": 256}, seed=4)
    (event,) = resumed(mended, RunState().replay([STARTED]))
    assert isinstance(event, SpecChanged)
    assert event.keys == ("generation.context", "seed")


def test_a_refusal_says_whether_another_run_can_take_over_what_is_measured(tmp_path: Path) -> None:
    run_state = RunState().replay(read_journal(write_run(tmp_path, [[0.5, 0.5]])))
    assert run_state.spec is not None
    table = run_state.spec.model_dump(mode="json")
    for change, takes_over in (({"seed": 9}, True), ({"merge": {"grain": "parts"}}, False)):
        with pytest.raises(RunChangedError) as caught:
            resumed(RunSpec.model_validate({**table, **change}), run_state)
        assert ("with --learn-from it takes over" in caught.value.hint) is takes_over


def test_a_benchmark_more_is_refused() -> None:
    more = [{"name": n, "adapter": "sums", "path": "/none/sums"} for n in ("sums", "more")]
    with pytest.raises(RunChangedError, match="in benchmarks"):
        resumed(world_spec(benchmarks=more))


def test_the_budget_cannot_go_below_what_is_done() -> None:
    world = World()
    world.join("a")
    world.settle()
    assert isinstance(world.stored[-1].event, Finished)
    lower = world_spec(budget={"evaluations": 3, "initial": 2, "failures": 3})
    with pytest.raises(RunChangedError, match="evaluations is 3, but 4 evaluations are spent"):
        resumed(lower, world.run_state)


@pytest.mark.parametrize(("most", "least"), [(8, 5), (4, 4)])
def test_a_budget_that_merges_in_part_have_spent_can_be_set_to_a_whole_number(
    most: int, least: int
) -> None:
    world = World()
    world.join("a")
    world.settle()
    spec, spending = world.run_state.spec, world.run_state.spending
    assert spec is not None
    spending.answers_in_part = answers_of_a_merge(world.run_state) // 2
    raised = spec.budget.model_copy(update={"evaluations": most})
    world.run_state.spec = spec.model_copy(update={"budget": raised})
    lower = world_spec(budget={"evaluations": 3, "initial": 2, "failures": 3})
    with pytest.raises(RunChangedError, match=r"is 3, but 4\.5 evaluations are spent") as caught:
        resumed(lower, world.run_state)
    assert caught.value.hint == f"set it to {least} or more"


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"gpu_hours": 0.001}, r"budget\.gpu_hours is 0\.001, but 0\.0\d+ GPU-hours are spent"),
        ({"generated_tokens": 12_000}, r"budget\.generated_tokens is 12,000, but 1\d,\d{3} "),
    ],
    ids=["GPU-hours", "tokens"],
)
def test_a_new_limit_cannot_be_below_what_is_spent(limit: dict[str, Any], message: str) -> None:
    world = World()
    world.join("a")
    world.exchange()
    world.now += 100.0
    world.settle()
    budget = {"evaluations": 4, "initial": 2, "failures": 3}
    with pytest.raises(RunChangedError, match=message):
        resumed(world_spec(budget=budget | limit), world.run_state)
    enough = dict.fromkeys(limit, 10**6)
    (event,) = resumed(world_spec(budget=budget | enough), world.run_state)
    assert isinstance(event, SpecChanged)


def test_a_number_of_evaluations_may_give_way_to_another_limit() -> None:
    world = World()
    world.join("a")
    world.settle()
    hours = {"evaluations": None, "gpu_hours": 0.02, "initial": 2, "failures": 3}
    (event,) = resumed(world_spec(budget=hours), world.run_state)
    assert isinstance(event, SpecChanged)
    assert event.keys == ("budget.evaluations", "budget.gpu_hours")
    world.record(event)
    world.settle()
    assert len(world.run_state.completed) > 4
    assert world.end is not None
    assert "GPU-hours are spent" in world.end.reason
