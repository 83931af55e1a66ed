"""The run that confirms a search: what it asks of which merges, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apbmm_common.errors import RunChangedError, UsageError
from apbmm_common.run_file import RunSpec
from apbmm_master.journal.events import AnyEvent, FrontToConfirm, Record, RunStarted
from apbmm_master.journal.run_start.confirmation import (
    begin_to_confirm,
    confirmation_spec,
    front_to_confirm,
)
from apbmm_master.journal.run_start.resume import begin_or_resume
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from rehearsal_runs import run_spec
from written_runs import write_run

HELD: list[dict[str, Any]] = [
    {"name": "sums", "adapter": "sums", "path": "/none/sums", "holdout": 0.25},
    {"name": "whole", "adapter": "sums", "path": "/none/whole"},
]
NEW = {"name": "new", "adapter": "sums", "path": "/none/new"}


def searched(folder: Path) -> RunState:
    """A search whose front is e0002 and e0003."""
    write_run(folder, [(0.3, 0.3), (0.9, 0.4), (0.5, 0.8)])
    return RunState().replay(read_journal(folder))


def confirming(spec: RunSpec) -> tuple[RunState, list[AnyEvent]]:
    """A run that has just begun, and the events that are recorded from there on."""
    run_state, events = RunState(), list[AnyEvent]()
    start = RunStarted(run="trial-confirm-1", spec=spec.model_dump(mode="json"))
    run_state.apply(Record(1, 0.0, start))
    return run_state, events


def record_into(run_state: RunState, events: list[AnyEvent]) -> Any:
    def record(event: AnyEvent) -> None:
        events.append(event)
        run_state.apply(Record(run_state.seq + 1, 0.0, event))

    return record


def test_it_asks_what_was_kept_out_and_the_further_benchmarks() -> None:
    objectives = [
        {"name": "right", "metric": "accuracy", "expert": "thinking", "vanilla": "instruct",
         "benchmarks": ["sums", "whole"]},
        {"name": "cheap", "metric": "tokens", "expert": "instruct", "vanilla": "thinking",
         "benchmarks": ["whole"]},
    ]  # fmt: skip
    spec = run_spec(benchmarks=HELD, confirm={"benchmarks": [NEW]}, objectives=objectives)
    confirm = confirmation_spec(spec, 7)
    assert [(b.name, b.held_out) for b in confirm.benchmarks] == [("sums", True), ("new", False)]
    assert [o.benchmarks for o in confirm.objectives] == [{"sums": 1.0}, None]
    assert confirm.budget.evaluations == 7
    assert confirm.name == "rehearsed-confirm"
    assert (confirm.sources, confirm.generation, confirm.merge, confirm.engine) == (
        spec.sources,
        spec.generation,
        spec.merge,
        spec.engine,
    )


DRAWN = {"max_tokens": 64, "context": 128, "temperature": 0.7}


def test_each_question_is_asked_as_often_as_the_confirmation_says() -> None:
    """What is kept out and what is named, or else the search's own questions with other draws."""
    held = [{**HELD[0], "repeats": 2}, HELD[1]]
    own = {**NEW, "name": "own", "repeats": 3}
    spec = run_spec(
        benchmarks=held, confirm={"repeats": 8, "benchmarks": [NEW, own]}, generation=DRAWN
    )
    asked = confirmation_spec(spec, 1).benchmarks
    assert [(b.name, b.repeats, b.asked_before) for b in asked] == [
        ("sums", 8, 0), ("new", 8, 0), ("own", 3, 0)
    ]  # fmt: skip
    whole = [{**HELD[1], "repeats": 2}, {**HELD[1], "name": "other"}]
    spec = run_spec(benchmarks=whole, confirm={"repeats": 8}, generation=DRAWN)
    asked = confirmation_spec(spec, 1).benchmarks
    assert [(b.repeats, b.asked_before, b.held_out) for b in asked] == [
        (8, 2, False), (8, 1, False)
    ]  # fmt: skip


def test_a_confirmation_of_an_earlier_version_is_over_with_an_unchanged_run_file() -> None:
    """As `steps.stop_beaten` was off by default then."""
    spec = run_spec(benchmarks=HELD, algorithm={"name": "ap-bmm-plus"})
    confirm = confirmation_spec(spec, 3)
    assert confirm.steps.stop_beaten is True
    off = confirm.model_copy(update={"steps": confirm.steps.stopping(beaten=False)})
    run_state, events = confirming(off)
    begin_or_resume(run_state, confirm, events.append)
    assert events == []


def test_without_questions_of_its_own_it_is_refused() -> None:
    with pytest.raises(UsageError, match="keeps no questions to confirm on") as caught:
        confirmation_spec(run_spec(), 1)
    assert "[[confirm.benchmarks]]" in caught.value.hint


def test_the_front_is_confirmed_or_what_is_named(tmp_path: Path) -> None:
    search = searched(tmp_path)
    front = front_to_confirm(search)
    assert set(front.vectors) == {"e0002", "e0003"}
    assert front.search == search.run
    assert front.vectors["e0002"] == search.evaluations["e0002"].vector
    assert set(front_to_confirm(search, ["e0001"]).vectors) == {"e0001"}
    for name in ("e0009", "thinking"):
        with pytest.raises(UsageError, match=f"{name} is not a completed evaluation"):
            front_to_confirm(search, [name])


def test_workers_must_read_the_same_sources_but_other_questions(tmp_path: Path) -> None:
    search = searched(tmp_path)
    search.digests = {"thinking": "t", "instruct": "i", "benchmark.sums": "b"}
    assert front_to_confirm(search).digests == {"thinking": "t", "instruct": "i"}


def test_a_later_request_adds_only_what_is_new(tmp_path: Path) -> None:
    search = searched(tmp_path)
    run_state, events = confirming(run_spec())
    record = record_into(run_state, events)
    begin_to_confirm(run_state, front_to_confirm(search), record)
    begin_to_confirm(run_state, front_to_confirm(search), record)
    begin_to_confirm(run_state, front_to_confirm(search, ["e0001", "e0002"]), record)
    assert [set(e.vectors) for e in events if isinstance(e, FrontToConfirm)] == [
        {"e0002", "e0003"},
        {"e0001"},
    ]
    assert set(run_state.to_confirm) == {"e0001", "e0002", "e0003"}
    with pytest.raises(RunChangedError, match="not another-search"):
        begin_to_confirm(
            run_state, front_to_confirm(search).model_copy(update={"search": "another-search"}),
            record,
        )  # fmt: skip


def test_a_run_that_confirms_is_not_confirmed(tmp_path: Path) -> None:
    search = searched(tmp_path)
    run_state, events = confirming(run_spec())
    begin_to_confirm(run_state, front_to_confirm(search), record_into(run_state, events))
    with pytest.raises(UsageError, match="confirms"):
        front_to_confirm(run_state)
