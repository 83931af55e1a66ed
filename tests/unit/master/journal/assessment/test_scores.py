from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apbmm_common.metrics import binomial_variance
from apbmm_common.repetitions import share_variance
from apbmm_master.journal.assessment.scores import (
    ScoredEvaluation,
    ScoreHistory,
    Scores,
    broken_by,
    broken_constraints,
    check_scaling,
    known_noise,
    load_rate,
    measured_margins,
    missing_metrics,
    scores_of,
)
from apbmm_master.journal.events import EpochStarted, SpecChanged, WorkerJoined, WorkerLeft
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from apbmm_master.optimiser.client import history_of, search_arguments
from apbmm_master.optimiser.process import PastTell
from apbmm_master.search.errors import ReferenceScaleError
from apbmm_master.search.pareto import front, hypervolume
from protocol_world import World, measurement
from rehearsal_runs import run_spec
from written_runs import answered, repeated_sums, write_run


def finished(evaluations: int, seed: int) -> World:
    """A run whose measurements are made up, on a grid so that some are equal."""
    dice = random.Random(seed)
    world = World(budget={"evaluations": evaluations, "initial": evaluations, "failures": 0})
    worker = world.join("a")
    while world.end is None:
        world.exchange()
        if worker.held is not None:
            counted = worker.held.evaluation.startswith("e")
            made_up = measurement(dice.randrange(11) / 10, 100.0 * dice.randrange(11))
            worker.finish(made_up if counted else None)
    return world


def history(run_state: RunState) -> list[ScoredEvaluation]:
    score_history = ScoreHistory()
    score_history.update(run_state)
    return score_history.history()


def test_the_search_is_told_the_noise_that_follows_from_the_journal() -> None:
    world = finished(12, seed=2)
    replayed = RunState().replay(world.stored)
    tells = [call for call in history_of(replayed) if isinstance(call, PastTell)]
    assert len(tells) == 12
    by_vector = {done.evaluation.vector: done for done in history(world.run_state)}
    for tell in tells:
        done = by_vector[tell.vector]
        assert tell.objectives == done.objectives
        assert tell.variance == known_noise(world.run_state, done.evaluation)
        assert tell.variance[0] > 0.0
        assert tell.variance[1] == 0.0


def test_the_noise_is_learned_from_several_answers_to_a_question(tmp_path: Path) -> None:
    ends = {
        "thinking": answered([1.0] * 8, [900] * 8, 2),
        "instruct": answered([0.0] * 8, [100] * 8, 2),
    }
    scores, tokens = [1, 1, 1, 0, 0, 0, 0, 0], [100, 140, 200, 220, 300, 300, 400, 400]
    points = [answered(scores, tokens, 2)]
    write_run(tmp_path, points, ends=ends, **repeated_sums(2))
    run_state = RunState().replay(read_journal(tmp_path))
    accuracy, cost = known_noise(run_state, run_state.evaluations["e0001"])
    means = np.reshape(scores, (4, 2)).mean(axis=1)
    assert accuracy == pytest.approx(share_variance(0.375, 4, float(np.var(means, ddof=1))))
    # Of tokens, only what the draws add: variances 800, 200, 0, 0 over 2 answers to 4 questions.
    assert cost == pytest.approx(250.0 / 8 / 800.0**2)


def test_the_front_followed_is_the_front_computed() -> None:
    world = finished(60, seed=5)
    run_state, score_history = world.run_state, ScoreHistory()
    assert run_state.spec is not None
    scores, completions = scores_of(run_state), history(run_state)
    assert [c.evaluation.id for c in completions] == run_state.completed
    points = np.array([completion.objectives for completion in completions])
    for count in range(1, len(points) + 1):
        best = points[front(points[:count])]
        last = completions[count - 1]
        assert last.front == len(best)
        volume = hypervolume(best, run_state.spec.hypervolume_reference)
        assert np.isclose(last.hypervolume, volume, rtol=1e-12)
    assert (scores.completed, scores.hypervolume) == (len(points), last.hypervolume)
    expected = [run_state.completed[i] for i in front(points)]
    assert list(scores.front) == expected
    assert [*scores.front.values()] == [tuple(points[i]) for i in front(points)]
    assert len(expected) < len({tuple(p) for p in points}) <= 60

    # Followed step by step, and over a run state that is read back, it is the same.
    grown = RunState()
    for record in world.stored:
        grown.apply(record)
        score_history.update(grown)
    assert score_history.update(grown) == scores
    assert score_history.history(58) == completions[58:]
    assert score_history.update(RunState().replay(world.stored)) == scores
    assert score_history.history() == completions


def test_nothing_stands_before_the_references() -> None:
    world = World()
    assert scores_of(world.run_state) == Scores()
    assert history(world.run_state) == []
    assert load_rate(world.run_state, 0.0) is None


def test_the_load_rate_counts_a_worker_only_while_it_is_there() -> None:
    world = World()
    a = world.join("a")
    world.exchange()
    world.now += 10.0
    a.finish()
    world.exchange()
    assert load_rate(world.run_state, world.now) == 1.0
    world.record(WorkerJoined(worker="b", boot="b", gpu="0", host="h", versions={}))
    world.commit()
    world.now += 10.0
    world.record(WorkerLeft(worker="b", boot="b", reason="stopped"))
    world.now += 10.0
    # a was busy for 30 s, b idle for 10 s.
    assert load_rate(world.run_state, world.now) == 30.0 / 40.0


def test_the_pause_between_two_masters_is_nobodys_time() -> None:
    """Killed with work in hand, started again later, once with a changed budget."""
    world = World(budget={"evaluations": 5, "initial": 5, "failures": 0})
    world.join("a")
    world.exchange()
    assert world.run_state.spec is not None
    spec = world.run_state.spec.model_dump(mode="json")
    for epoch, changed in ((2, False), (3, True), (0, False)):
        world.now += 10.0
        # The last that this master commits.
        world.record(WorkerJoined(worker="b", boot=f"b{epoch}", gpu="0", host="h", versions={}))
        world.record(WorkerLeft(worker="b", boot=f"b{epoch}", reason="stopped"))
        if not epoch:
            break
        world.now += 1000.0
        if changed:
            world.record(SpecChanged(spec=spec, keys=("budget.evaluations",)))
        world.record(EpochStarted(epoch=epoch, host="h", pid=1))
        world.record(WorkerJoined(worker="a", boot="boot1", gpu="0", host="h", versions={}))
    stays = [stay for stay in world.run_state.sessions.stays if stay.worker == "a"]
    assert [(stay.left or world.now) - stay.joined for stay in stays] == [10.0, 10.0, 10.0]
    assert load_rate(world.run_state, world.now) == 1.0


F1 = [
    {"name": "quality", "metric": "f1", "expert": "thinking", "vanilla": "instruct"},
    {"name": "cost", "metric": "tokens", "expert": "instruct", "vanilla": "thinking"},
]


def test_references_without_an_objectives_metric_are_named_with_what_they_have() -> None:
    world = World(objectives=F1)
    worker = world.join("a")
    while not world.run_state.references_done:
        world.exchange()
        if worker.held is not None:
            worker.finish()
    with pytest.raises(ReferenceScaleError, match=r"has no f1 \(hint: it has accuracy, tokens\)"):
        check_scaling(world.run_state)


def test_the_metrics_that_a_result_lacks_are_named() -> None:
    assert missing_metrics(run_spec(objectives=F1), measurement()) == "benchmark sums has no f1"
    assert missing_metrics(run_spec(), measurement()) == ""


def test_what_breaks_a_constraint_is_neither_on_the_front_nor_in_the_hypervolume(
    tmp_path: Path,
) -> None:
    """At most 550 tokens and at least 0.3 right: of the points the 1st, 4th and 5th break one."""
    points = [(0.1, 0.95), (0.6, 0.7), (0.5, 0.65), (0.9, 0.2), (0.8, 0.3)]
    limits: dict[str, Any] = {"at_least": {"sums": 0.3}, "at_most": {"tokens": 550}}
    folder = write_run(tmp_path / "limited", points, **limits)
    run_state = RunState().replay(read_journal(folder))
    scores = scores_of(run_state)
    assert list(scores.front) == ["e0002"]
    assert scores.hypervolume == pytest.approx(0.8 * 0.9)
    found = {
        done.evaluation.id: [each.in_words for each in done.broken] for done in history(run_state)
    }
    assert found == {
        "e0001": ["sums ≥ 30.0%"],
        "e0002": [],
        "e0003": [],
        "e0004": ["tokens ≤ 550.0"],
        "e0005": ["tokens ≤ 550.0"],
    }
    names = ("thinking", "instruct")
    broken = [broken_by(run_state, run_state.evaluations[name]) for name in names]
    assert [[each.name for each in those] for those in broken] == [["tokens"], ["sums"]]


def test_a_mean_at_its_limit_but_for_rounding_breaks_nothing() -> None:
    benchmarks = [{"name": name, "adapter": "a", "path": "p"} for name in "abc"]
    spec = run_spec(benchmarks=benchmarks, at_least={"accuracy": 0.8}, at_most={"tokens": 100.1})

    def measured(*tokens: float) -> dict[str, dict[str, float]]:
        pairs = zip("abc", (0.9, 0.7, 0.8), tokens, strict=True)
        return {name: {"accuracy": share, "tokens": mean} for name, share, mean in pairs}

    assert measured_margins(spec, measured(100.0, 100.1, 100.2)) == (0.0, 0.0)
    assert broken_constraints(spec, measured(100.0, 100.1, 100.2)) == ()
    broken = broken_constraints(spec, measured(100.0, 100.1, 100.21))
    assert [each.name for each in broken] == ["tokens"]


def test_the_search_is_told_margins_after_the_objectives(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"at_least": {"sums": 0.3}, "at_most": {"tokens": 550}}
    run_state = RunState().replay(read_journal(write_run(tmp_path, [(0.6, 0.7)], **limits)))
    (tell,) = [call for call in history_of(run_state) if isinstance(call, PastTell)]
    assert tell.objectives == pytest.approx((0.6, 0.7, 0.26, 180.0))
    assert tell.variance is not None
    assert tell.variance[2] == pytest.approx(binomial_variance(0.56, 10))
    arguments = search_arguments(run_state)
    assert (arguments.objectives, arguments.constraints) == (2, 2)
    assert arguments.ends is not None
    assert arguments.ends[0] == pytest.approx((0.0, 1.0, -0.1, 450.0))
    assert arguments.ends_noise[0][:2] == (0.0, 0.0)
    assert arguments.ends_noise[0][2] > 0.0
