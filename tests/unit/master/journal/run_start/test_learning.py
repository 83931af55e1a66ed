"""A run that learns from an earlier one: what it takes over, what it refuses, what it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apbmm.export.sources import verified_sources
from apbmm.pick.choice import Preference, choose
from apbmm.report.data.model import fitted_surrogate
from apbmm.results.run_results import read_results
from apbmm_common.errors import RunChangedError, SourceError, UsageError
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.assessment.scores import score, scores_of
from apbmm_master.journal.costs.budget import limits
from apbmm_master.journal.events import ResultLearnt, RunLearnt, SourcesVerified
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.run_start.confirmation import front_to_confirm
from apbmm_master.journal.run_start.learning import begin_to_learn, earlier_run
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import Journal, read_outcomes
from apbmm_master.optimiser.client import OptimiserClient, history_of, search_arguments
from apbmm_master.optimiser.process import PastTell, replayed_search
from apbmm_master.scheduling.policy.asking import initial_missing
from apbmm_master.search.pareto import hypervolume
from apbmm_master.status.snapshot import journal_snapshot
from protocol_world import World, measurement, world_spec
from written_runs import ENDS, answered, learn, measured, write_journal, write_run

EARLIER = [(0.5, 0.5), (0.9, 0.3), (0.2, 0.2)]
BUDGET = {"evaluations": 3, "initial": 2, "failures": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "earlier", EARLIER)


def learner(folder: Path, **changes: Any) -> World:
    """A world that has learnt from the run in ``folder``; its own run has another id."""
    world = World(**({"budget": BUDGET} | changes))
    learn(world, folder)
    return world


def test_references_and_merges_are_taken_over_with_their_outcomes(tmp_path: Path) -> None:
    ends: dict[str, Evaluated | tuple[float, float]] = {
        "thinking": answered([1.0] * 4, [800, 700, 900, 600]),
        "instruct": ENDS["instruct"],
    }
    points: list[Evaluated | tuple[float, float]] = [
        answered([1.0, 0.0, 1.0, 0.0], [300, 400, 500, 600]),
        (0.2, 0.2),
    ]
    folder = write_run(tmp_path / "earlier", points, ends=ends)
    world = learner(folder)
    learnt = [r.event for r in world.stored if isinstance(r.event, ResultLearnt)]
    assert [(e.evaluation, e.source) for e in learnt] == [
        ("thinking", "thinking"), ("instruct", "instruct"), ("l0001", "e0001"), ("l0002", "e0002"),
    ]  # fmt: skip
    with Journal(tmp_path / "later") as journal:
        journal.append(world.stored)
    for here, there in (("thinking", "thinking"), ("l0001", "e0001")):
        rows = [read_outcomes(f, n) for f, n in ((tmp_path / "later", here), (folder, there))]
        assert [(r.question, r.score, r.tokens) for r in rows[0]] == [
            (r.question, r.score, r.tokens) for r in rows[1]
        ]
        assert len(rows[0]) == 4


def test_the_front_has_what_was_learnt_and_the_budget_has_not(folder: Path) -> None:
    world = learner(folder)
    known = scores_of(world.run_state)
    assert known.front == {
        "l0001": pytest.approx((0.5, 0.5)), "l0002": pytest.approx((0.9, 0.3)),
    }  # fmt: skip
    assert (
        known.learnt
        == known.hypervolume
        == pytest.approx(hypervolume(np.array(EARLIER), (-0.2, -0.2)))
    )
    assert (known.completed, world.run_state.completed) == (0, [])
    (limit,) = limits(world.run_state)
    assert limit.spent == 0
    assert world.run_state.spending.tokens == 0
    worker = world.join("a")
    world.exchange()
    for point in ((0.95, 0.35), (0.1, 0.1), (0.3, 0.3)):
        while worker.held is not None and not worker.held.evaluation.startswith("e"):
            worker.finish()
            world.exchange()
        world.exchange()
        worker.finish(measured(point))
        world.exchange()
    assert world.end is not None
    assert world.end.reason == "3 evaluations completed"
    found = scores_of(world.run_state)
    assert set(found.front) == {"l0001", "e0001"}
    assert found.learnt == known.hypervolume < found.hypervolume
    snapshot = journal_snapshot(world.run_state)
    assert snapshot["learnt"] == {
        "run": "world-1", "merges": 3, "hypervolume": found.learnt
    }  # fmt: skip
    assert snapshot["evaluations"]["done"] == 3
    assert snapshot["tokens"] == world.run_state.spending.merges.tokens


def test_what_was_learnt_tells_what_an_evaluation_costs(folder: Path) -> None:
    each = 1.0  # second that each result of the earlier run says it has taken
    budget = {"evaluations": None, "initial": 2, "gpu_hours": 3.5 * each / 3600}
    world = learner(folder, budget=budget)
    for name in "abcdefghijkl":
        world.join(name)
    for _ in range(6):
        world.exchange()
        for worker in world.alive:
            if worker.held is not None and worker.held.evaluation == "measure":
                worker.finish()
    assert world.run_state.count(EvaluationState.ACTIVE) in (3, 4)


def test_the_references_are_not_measured_again(folder: Path) -> None:
    world = learner(folder)
    assert world.run_state.references_done
    world.join("a")
    world.exchange()
    client = OptimiserClient(lambda: None)
    client.propose_references(world.run_state, world.record)
    world.settle()
    attempts = {e.id: len(e.attempts) for e in world.run_state.evaluations.values()}
    assert attempts["thinking"] == attempts["instruct"] == attempts["l0001"] == 0
    assert attempts["measure"] == attempts["e0001"] == 1


def test_the_method_is_told_what_was_learnt_beside_its_budget(folder: Path) -> None:
    world = learner(folder, budget={"evaluations": 8, "initial": 5})
    tells = history_of(world.run_state)
    names = world.run_state.learning.evaluations
    evaluations = [world.run_state.evaluations[name] for name in names]
    assert [(t.vector, t.objectives) for t in tells if isinstance(t, PastTell)] == [
        (e.vector, score(world.run_state, e)) for e in evaluations
    ]
    world.join("a")
    world.exchange()
    assert world.run_state.spec is not None
    # The initial design of five has two points more than what was learnt.
    assert world.run_state.count(purposes=("initial",)) == 2
    again = RunState().replay(world.stored)
    assert initial_missing(again, world.run_state.spec) == 0
    assert search_arguments(again).budget == 11
    search = replayed_search(search_arguments(again), history_of(again))
    assert not search.exhausted


def test_a_resumed_run_needs_no_second_folder(folder: Path) -> None:
    world = learner(folder)
    world.join("a")
    world.exchange()
    before = scores_of(world.run_state)
    (folder / "journal.sqlite").unlink()
    world.restart()
    assert scores_of(world.run_state) == before
    world.join("a")
    world.settle()
    assert world.end is not None
    assert len(world.run_state.completed) == 3


def test_what_is_learnt_is_shown_before_a_worker_has_told_the_layers(
    folder: Path, tmp_path: Path
) -> None:
    world = learner(folder)
    assert not world.run_state.has_space
    front = journal_snapshot(world.run_state)["front"]
    assert [(point["id"], point["layer_weights"]) for point in front] == [
        (name, []) for name in scores_of(world.run_state).front
    ]
    results = read_results(write_journal(tmp_path / "learner", world.stored))
    assert len(results.merges) == len(EARLIER)
    assert fitted_surrogate(results) is None
    with pytest.raises(SourceError, match="no worker of the run has read its sources"):
        verified_sources(results, {})


def test_learning_twice_changes_nothing_and_another_run_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    world = learner(folder)
    number = len(world.stored)
    spec = world_spec(budget=BUDGET)
    begin_to_learn(world.run_state, earlier_run(folder, spec), world.record)
    world.commit()
    assert len(world.stored) == number
    plain = World(budget=BUDGET)
    plain.run_state.run = "world-2"
    plain.join("a")
    plain.exchange()
    with pytest.raises(RunChangedError, match="world-2 was begun without learning from world-1"):
        begin_to_learn(plain.run_state, earlier_run(folder, spec), plain.record)


OTHERWISE: dict[str, tuple[dict[str, Any], str]] = {
    "generation": ({"generation": {"max_tokens": 32}}, r"generation\.max_tokens"),
    "benchmarks": (
        {"benchmarks": [{"name": "sums", "adapter": "other", "path": "/none/sums"}]},
        r"benchmarks\.0\.adapter",
    ),
    "engine": ({"engine": {"dtype": "float16"}}, r"engine\.dtype"),
    "method": ({"algorithm": {"name": "ties"}}, r"algorithm\.name"),
}


@pytest.mark.parametrize(("changes", "named"), OTHERWISE.values(), ids=OTHERWISE.keys())
def test_what_was_measured_otherwise_is_refused_by_name(
    folder: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=f"measured otherwise: it differs in {named}"):
        earlier_run(folder, world_spec(**changes))


def test_paths_seed_budget_and_search_method_may_differ(folder: Path) -> None:
    changes: dict[str, Any] = {
        "seed": 9,
        "algorithm": {"name": "sobol"},
        "sources": {"thinking": "/moved"},
        "budget": {"evaluations": None, "gpu_hours": 3.0},
    }
    assert len(earlier_run(folder, world_spec(**changes)).run_state.completed) == 3


def test_objectives_need_metrics_that_were_measured(folder: Path) -> None:
    objectives = [
        {"name": "a", "metric": "accuracy", "expert": "thinking", "vanilla": "instruct"},
        {"name": "b", "metric": "seconds", "expert": "instruct", "vanilla": "thinking"},
    ]
    with pytest.raises(UsageError, match="benchmark sums has no seconds"):
        earlier_run(folder, world_spec(objectives=objectives))


def test_a_run_without_results_has_nothing_to_teach(tmp_path: Path) -> None:
    begun = write_run(tmp_path / "begun", [], budget=4)
    with pytest.raises(UsageError, match="nothing to learn"):
        earlier_run(begun, world_spec())


def test_what_is_no_run_directory_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.touch()
    for place in (tmp_path, tmp_path / "none", file):
        with pytest.raises(UsageError, match=f"--learn-from {place}: not a run directory"):
            earlier_run(place, world_spec())


def test_workers_with_other_contents_than_the_earlier_run_are_refused(folder: Path) -> None:
    world = learner(folder)
    wrong = world.join("wrong")
    wrong.digests = {"rehearsal": "other"}
    world.exchange()
    assert "its rehearsal differ from world-1's" in wrong.refused or any(
        "differ from world-1's" in w.unfit for w in world.fleet.workers.values()
    )
    assert not any(isinstance(r.event, SourcesVerified) for r in world.stored)
    world.join("right")
    world.settle()
    assert world.end is not None
    assert {e.worker for e in world.run_state.evaluations.values() if e.attempts} == {"right"}


def test_a_third_run_learns_from_all_before(folder: Path, tmp_path: Path) -> None:
    second = learner(folder)
    second.join("a")
    second.settle()
    with Journal(tmp_path / "second") as journal:
        journal.append(second.stored)
    third = learner(tmp_path / "second")
    assert third.run_state.learning.evaluations == [f"l{n:04d}" for n in range(1, 7)]
    sources = third.run_state.learning.sources
    assert (sources["l0001"], sources["l0004"]) == ("l0001", "e0001")
    assert len([r for r in third.stored if isinstance(r.event, RunLearnt)]) == 1


def test_results_offer_what_was_learnt(folder: Path, tmp_path: Path) -> None:
    world = learner(folder)
    worker = world.join("a")
    for _ in range(3):
        world.exchange()
        if worker.held is not None:
            worker.finish(None if worker.held.work == "measure" else measurement(0.3, 900.0))
    with Journal(tmp_path / "later") as journal:
        journal.append(world.stored)
    results = read_results(tmp_path / "later")
    assert [each.id for each in results.learnt] == ["l0001", "l0002", "l0003"]
    assert {each.id for each in results.front} >= {"l0001", "l0002"}
    assert front_to_confirm(results.run_state, ["l0002"]).vectors == {
        "l0002": results.evaluation("l0002").vector
    }
    assert results.tokens == sum(each.tokens for each in results.completed)
    chosen = choose(results, Preference()).evaluation
    assert chosen is not None
    assert chosen.id in ("l0001", "l0002")
