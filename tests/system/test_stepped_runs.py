"""Runs in which merges are measured in steps, over crashes at every step and over resumes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from apbmm_common.protocol.answers import CUT
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.costs.budget import limits
from apbmm_master.journal.events import (
    DuplicateResult,
    Finishing,
    Leased,
    Paused,
    ResultRecorded,
    SpecChanged,
)
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.storage.store import read_kept, read_outcomes
from apbmm_worker.child import rehearsal
from fault_accounts import scaled
from rehearsal_runs import Site, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

Recorder = Callable[[str, object], None]
STEPS = {"enabled": True, "answered": 0.8, "audits": 0.2}
BUDGET = {"evaluations": 5, "initial": 3}
SOBOL = {"name": "sobol"}
"""Has more vectors than the budget has evaluations."""
EVERY = rehearsal.QUESTIONS
UPTO, ENOUGH = 30, 24
MASTER = [
    *(f"journal.{point}/paused" for point in ("begin", "insert", "commit")),
    *(f"journal.{point}/estimated:2" for point in ("begin", "commit")),
    "send.before/result_ack:4", "journal.insert/estimated", "send.after/result_ack:5",
]  # fmt: skip
END = [f"journal.{point}/finishing" for point in ("begin", "insert", "commit")]
GOING_ON = ["send.before/kept_answers", "send.after/kept_answers"]
WORKER = [
    "outbox.begin:4", "outbox.stored", "send.after/answers_wanted", "send.before/answers:2",
    "outbox.synced", "send.after/result", "ack.before", "send.before/answers_wanted",
]  # fmt: skip


def configure(site: Site, **changes: Any) -> None:
    own = {"budget": BUDGET, "evaluation": {"rehearsal_seconds": 1.0}, "algorithm": SOBOL}
    changes = own | changes
    site.configure(steps=STEPS, **changes)


def assert_whole(site: Site, evaluations: int = BUDGET["evaluations"]) -> None:
    """Everything adds up, and whatever was measured is as without any fault."""
    state = site.run_state()
    assert state.spec is not None
    assert state.finished
    assert not state.failed
    results = [event.evaluation for event in site.events(ResultRecorded)]
    pauses = [event.evaluation for event in site.events(Paused)]
    assert sorted(results) == sorted(set(results))
    assert sorted(pauses) == sorted(set(pauses))
    partial = partial_rows(site)
    for name, evaluation in state.evaluations.items():
        if evaluation.purpose == "measure":
            continue
        expected = invented(site, name)
        if isinstance(evaluation.body, Evaluated):
            rows = read_outcomes(site.run_dir, name)
            assert {(row.question, row.score, row.tokens) for row in rows} == expected
            assert len(rows) == EVERY, "an answered question is stored twice, or was lost"
            assert name not in partial
        elif evaluation.step is not None:
            answered = {row[:3] for row in partial[name] if row[3] != CUT}
            assert answered <= expected
            assert len(answered) == evaluation.step.answered >= ENOUGH
            assert len(partial[name]) >= UPTO
    unfinished = {e.id for e in state.of_state(EvaluationState.PAUSED, EvaluationState.QUEUED)}
    assert read_kept(site.run_dir).keys() <= unfinished
    (limit,) = limits(state)
    assert evaluations - 1 < limit.spent < evaluations + 0.5


def invented(site: Site, name: str) -> set[tuple[str, float, int]]:
    """The outcomes that a rehearsal invents for an evaluation."""
    state = site.run_state()
    assert state.spec is not None
    evaluation = state.evaluations[name]
    reference = evaluation.purpose == "reference"
    _, outcomes = rehearsal.invented(state.spec, evaluation.vector, reference=reference)
    return {(o.question, o.score, round(o.tokens)) for each in outcomes.values() for o in each}


def partial_rows(site: Site) -> dict[str, list[tuple[str, float, int, str]]]:
    rows: dict[str, list[tuple[str, float, int, str]]] = {}
    with sqlite3.connect(f"file:{site.run_dir / 'journal.sqlite'}?mode=ro", uri=True) as db:
        query = "SELECT evaluation, question, score, tokens, finish_reason FROM partial_outcomes"
        for name, *row in db.execute(query):
            rows.setdefault(name, []).append((row[0], row[1], row[2], row[3]))
    return rows


def completed_later(site: Site) -> list[str]:
    """Merges that went on after a pause and are done."""
    gone_on = {lease.evaluation for lease in site.events(Leased) if lease.attempt > 1}
    paused = {event.evaluation for event in site.events(Paused)}
    return [name for name in site.run_state().completed if name in gone_on & paused]


def test_a_run_begins_more_merges_than_its_budget_and_completes_the_best(site: Site) -> None:
    """By the default method; the same command goes on with a larger budget."""
    configure(site, algorithm={"name": "ap-bmm-plus"})
    site.worker("a")
    site.worker("b")
    master = site.master()
    assert master.end() == 0, master.output
    assert_whole(site)
    state = site.run_state()
    begun = [e for e in state.evaluations.values() if e.in_budget and e.attempts]
    assert len(begun) > BUDGET["evaluations"]
    assert len(state.completed) < BUDGET["evaluations"]
    assert len(completed_later(site)) == len(state.completed)
    leases = {(lease.upto, lease.enough) for lease in site.events(Leased)}
    assert leases == {(0, 0), (UPTO, ENOUGH)}
    assert "~[" in master.output
    assert "merges measured in part" in master.output

    configure(site, algorithm={"name": "ap-bmm-plus"}, budget={"evaluations": 6, "initial": 3})
    more = site.master()
    assert more.end() == 0, more.output
    assert len(site.events(Finishing)) == 2
    assert len(site.run_state().completed) > len(state.completed)


def test_a_master_killed_at_every_step_of_a_pause_loses_and_repeats_nothing(
    site: Site, record_property: Recorder
) -> None:
    steps = [
        *MASTER[: scaled(len(MASTER), 6)],
        *END[: scaled(len(END), 1)],
        *GOING_ON[: scaled(len(GOING_ON), 0)],
    ]
    evaluations = len(steps) + 1  # so many that none of the masters before comes to the end
    configure(site, budget={"evaluations": evaluations, "initial": 3})
    workers = [site.worker("a"), site.worker("b")]
    for step in steps:
        site.master(env={"APBMM_FAILPOINTS": f"{step}=kill"}).dies_at(step)
    last = site.master()
    assert last.end() == 0, last.output
    assert_whole(site, evaluations)
    assert completed_later(site)
    assert site.events(DuplicateResult) == []
    assert all(worker.popen.poll() is None for worker in workers)
    record_property("figures", f"master killed at {len(steps)} steps of pauses: nothing lost")


def test_a_worker_killed_at_every_step_of_a_pause_loses_what_was_in_flight_alone(
    site: Site, record_property: Recorder
) -> None:
    configure(site, evaluation={"rehearsal_seconds": 3.0})
    master = site.master()
    steps = WORKER[: scaled(len(WORKER), 4)]
    for step in steps:
        site.worker("a", env={"APBMM_FAILPOINTS": f"{step}=kill"}).dies_at(step)
    site.worker("a")
    assert master.end() == 0, master.output
    assert_whole(site)
    for name in site.attempts():
        kept = [lease.kept for lease in site.events(Leased) if lease.evaluation == name]
        assert kept == sorted(kept), "an acknowledged answer was lost"
    record_property("figures", f"worker killed at {len(steps)} steps of pauses: none asked again")


def test_a_disk_that_refuses_a_pause_gets_it_again(site: Site) -> None:
    configure(site)
    site.worker("a")
    master = site.master(env={"APBMM_FAILPOINTS": "journal.insert/paused=enospc"})
    assert master.end() == 0, master.output
    assert "could not be written" in master.output
    assert_whole(site)


def test_a_journal_of_an_earlier_version_goes_on_in_full(site: Site) -> None:
    """It has no table of partial answers, and nothing says that it has outcomes to learn from."""
    site.configure(budget=BUDGET)
    worker, master = site.worker("a", fault="hang:e0002"), site.master()
    wait_for("a merge", lambda: site.done() > 0)
    # A lease that has not reached its worker is declined, because the next master's run differs.
    wait_for("the next one", lambda: [x for x in site.running() if x.startswith("e0002")])
    master.kill()
    with sqlite3.connect(site.run_dir / "journal.sqlite") as db:
        db.execute("DROP TABLE partial_outcomes")
    site.configure(budget=BUDGET, steps=STEPS)
    again = site.master()
    worker.go_on()
    assert again.end() == 0, again.output
    assert site.events(SpecChanged)[0].keys == ("steps.answered", "steps.audits", "steps.enabled")
    site.assert_whole(BUDGET["evaluations"])
    site.assert_nothing_was_repeated()
    assert site.events(Paused) == []
