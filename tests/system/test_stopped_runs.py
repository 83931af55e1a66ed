"""Runs in which merges are stopped while they are evaluated, over crashes as well."""

from __future__ import annotations

import pytest

from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.costs.budget import evaluations_spent
from apbmm_master.journal.events import Beaten, Leased, Paused, Stopped, WorkerJoined
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import Evaluation
from apbmm_master.journal.storage.store import read_outcomes, read_rows
from apbmm_worker.child import rehearsal
from rehearsal_runs import Process, Site, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BUDGET = {"evaluations": 6, "initial": 6}
LAST = "e0006"
KILLED = ["journal.begin/stopped", "journal.commit/beaten"]
"""After the second one the merge may have answered everything before there is a master again."""


def configure(site: Site) -> None:
    """A run whose second merge is beaten by its first when .59 of it is answered."""
    site.configure(
        seed=7,
        algorithm={"name": "sobol"},
        steps={"stop_beaten": True},
        budget=BUDGET,
        evaluation={"rehearsal_seconds": 10.0},
        generation={"max_tokens": 8000, "context": 16_000},  # as many as a rehearsal invents
    )


def whole(site: Site, evaluation: Evaluation) -> tuple[float, float]:
    """Accuracy and tokens that a merge would have been measured to have."""
    spec = site.run_state().spec
    assert spec is not None
    _, found = rehearsal.evaluated(spec, evaluation.vector)
    metrics = found.benchmarks["sums"].metrics
    return metrics["accuracy"], metrics["tokens"]


def assert_stopped_before_the_last_lease(site: Site) -> None:
    """Merges were stopped while the search went on; but for the last one."""
    events = [record.event for record in site.records()]
    last = max(n for n, event in enumerate(events) if isinstance(event, Leased))
    stopped = [
        (n, event.evaluation) for n, event in enumerate(events) if isinstance(event, Stopped)
    ]
    told = {name for n, name in stopped if n < last}
    assert len(told) >= len(stopped) - 1


def go_on_once_the_search_is_told(site: Site, worker: Process) -> None:
    """Hold the last merge until what was stopped before it has its estimates."""

    def are_told() -> bool:
        stopped = list(site.run_state().of_state(EvaluationState.STOPPED))
        return bool(stopped) and all(each.estimate is not None for each in stopped)

    wait_for("the last merge", lambda: any(x.startswith(LAST) for x in site.running()))
    wait_for("estimates of what was stopped", are_told)
    worker.go_on()


def assert_stopped_soundly(site: Site) -> None:
    state = site.run_state()
    assert state.finished
    assert not state.failed
    stopped = list(state.of_state(EvaluationState.STOPPED))
    assert stopped
    measured = [state.evaluations[name].body for name in state.completed]
    assert_stopped_before_the_last_lease(site)
    for evaluation in stopped:
        accuracy, tokens = whole(site, evaluation)
        assert any(
            isinstance(body, Evaluated)
            and body.benchmarks["sums"].metrics["accuracy"] >= accuracy
            and body.benchmarks["sums"].metrics["tokens"] <= tokens
            for body in measured
        ), "it might have been on the front"
        assert evaluation.step is not None
        assert 0 < evaluation.step.answered < rehearsal.QUESTIONS
        ((_, rows),) = read_rows(site.run_dir, [], [evaluation.id])
        answered = [row for row in rows if row.score is not None]
        assert len(answered) == evaluation.step.answered, "its answers stay"
    outcomes = [(row.evaluation, row.question) for row in read_outcomes(site.run_dir)]
    assert len(outcomes) == len(set(outcomes))
    assert abs(evaluations_spent(state) - BUDGET["evaluations"]) <= 0.5 + 1e-9


def test_a_beaten_merge_is_stopped_and_its_worker_takes_the_next_one(site: Site) -> None:
    configure(site)
    worker = site.worker("a", fault=f"hang:{LAST}")
    master = site.master()
    go_on_once_the_search_is_told(site, worker)
    assert master.end() == 0, master.output
    assert_stopped_soundly(site)
    assert len(site.events(WorkerJoined)) == 1
    assert "is enough" in worker.output
    beaten = [event.evaluation for event in site.events(Beaten)]
    paused = [event.evaluation for event in site.events(Paused)]
    stopped = [event.evaluation for event in site.events(Stopped)]
    assert stopped == paused
    assert set(stopped) <= set(beaten)
    assert f"{stopped[0]} is stopped: a measured merge beats" in master.output


def test_a_master_that_is_killed_meanwhile_stops_it_all_the_same(site: Site) -> None:
    configure(site)
    site.worker("a")
    for step in KILLED:
        site.master(env={"APBMM_FAILPOINTS": f"{step}=kill"}).dies_at(step)
    last = site.master()
    assert last.end() == 0, last.output
    assert_stopped_soundly(site)


def test_a_worker_that_is_killed_meanwhile_loses_no_answer(site: Site) -> None:
    configure(site)
    master = site.master()
    step = "outbox.begin:5"
    site.worker("a", env={"APBMM_FAILPOINTS": f"{step}=kill"}).dies_at(step)
    go_on_once_the_search_is_told(site, site.worker("a", fault=f"hang:{LAST}"))
    assert master.end() == 0, master.output
    assert_stopped_soundly(site)
