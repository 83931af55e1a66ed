"""Merges that are stopped while they are evaluated, for a measured merge beats them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apbmm_common.protocol.messages import AnswersAck, Enough, Evaluated
from apbmm_common.run_file.sections.objectives import ObjectiveSection
from apbmm_master.journal.assessment.first_steps import answers_of_a_merge
from apbmm_master.journal.assessment.scores import best_with, broken_constraints, raw_metrics, score
from apbmm_master.journal.costs.budget import evaluations_spent
from apbmm_master.journal.costs.patience import standstill_of_hypervolume
from apbmm_master.journal.events import (
    Beaten,
    DuplicateResult,
    Leased,
    Paused,
    SpecChanged,
    Stopped,
)
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import TellCall
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.answer_tables import ScoredPart
from apbmm_master.scheduling.policy.beaten_merges import INFEASIBLE, ROUNDING, beaten_in_progress
from apbmm_master.scheduling.policy.reachable_objectives import ReachableObjectives, with_tokens
from apbmm_master.search.arrays import Array
from protocol_world import PROMPTS, Sim, World, measured_of, measurement, world_spec

BUDGET = {"evaluations": 4, "initial": 2, "failures": 3}


def events(world: World, kind: type) -> list[Any]:
    return [r.event for r in world.stored if isinstance(r.event, kind)]


def work(world: World, *, but: Sim | None = None) -> None:
    """A second in which the workers, but for one, finish what they hold."""
    world.now += 1.0
    for worker in world.alive:
        if worker.held is not None and worker is not but:
            worker.finish()
        worker.beat()
    world.exchange()


def rambling_run(
    budget: Mapping[str, int] = BUDGET,
    at_most: Mapping[str, float] = MappingProxyType({}),
    **steps: Any,
) -> tuple[World, Sim]:
    """A run with a measured merge, in which a worker holds another one that rambles."""
    world = World(
        steps={"stop_beaten": True, **steps},
        budget=budget,
        at_most=dict(at_most),
        generation={"max_tokens": 10_000, "context": 20_000},
    )
    world.search = 60
    world.rambles = True
    world.join("a")
    for _ in range(20):
        if world.run_state.completed:
            break
        work(world)
    world.workers[0].alive = False
    world.now += 100.0
    b = world.join("b")
    for _ in range(20):
        if b.held is not None and b.held.work == "evaluate":
            return world, b
        work(world, but=b)
    raise AssertionError("it never got a merge")


def answer(world: World, worker: Sim, count: int) -> None:
    """Have answers of a worker arrive and be committed; of the replies, that alone arrives."""
    worker.answer(count)
    worker.stream()
    world.collect()
    world.turn()
    for _, message in world.answers:
        if isinstance(message, AnswersAck):
            worker.hear(message)
    world.turn()


def test_it_is_stopped_once_the_best_that_it_can_become_is_beaten() -> None:
    world, b = rambling_run()
    assert b.held is not None
    name = b.held.evaluation
    answer(world, b, 2)
    assert not events(world, Beaten)
    answer(world, b, 3)
    assert [e.evaluation for e in events(world, Beaten)] == [name]
    world.exchange()
    evaluation = world.run_state.evaluations[name]
    assert evaluation.state is EvaluationState.STOPPED
    assert evaluation.message == events(world, Beaten)[0].reason
    assert evaluation.step is not None
    assert evaluation.step.answered == 5
    assert evaluations_spent(world.run_state) == pytest.approx(1.5), "with what it has answered"
    assert world.tables.of(name).answers == 0, "nobody goes on with it"
    told = [c for c in world.run_state.calls if isinstance(c, TellCall) and c.evaluation == name]
    assert [call.estimated for call in told] == [True]
    world.settle()
    assert RunState().replay(world.stored) == world.run_state


def beat(world: World, worker: Sim, in_flight: int) -> None:
    """A beat of a worker with so many tokens, of which no reply arrives."""
    worker.in_flight = in_flight
    worker.beat()
    world.collect()
    world.turn()


def test_a_merge_that_breaks_a_limit_by_what_is_in_flight_is_stopped_before_any_answer() -> None:
    world, b = rambling_run(at_most={"tokens": 900.0})
    assert b.held is not None
    name = b.held.evaluation
    beat(world, b, 9_000)
    assert not events(world, Beaten)
    beat(world, b, 9_001)
    (event,) = events(world, Beaten)
    assert (event.evaluation, event.reason) == (name, INFEASIBLE)
    b.in_flight = 0
    world.exchange()
    evaluation = world.run_state.evaluations[name]
    assert evaluation.state is EvaluationState.STOPPED
    assert evaluation.step is not None
    assert evaluation.step.answered == 0
    assert evaluations_spent(world.run_state) == pytest.approx(1.1), "one answer at least"
    world.settle()
    assert RunState().replay(world.stored) == world.run_state


def test_a_run_of_merges_that_end_no_answer_ends() -> None:
    world, b = rambling_run({**BUDGET, "evaluations": 2}, at_most={"tokens": 900.0})
    b.in_flight = 9_001
    for _ in range(100):
        if world.end is not None:
            break
        world.now += 1.0
        b.beat()
        world.exchange()
    assert world.run_state.finished
    stopped = world.run_state.count(EvaluationState.STOPPED)
    assert evaluations_spent(world.run_state) == pytest.approx(1 + stopped / 10)


def test_tokens_in_flight_stop_a_merge_that_its_finished_answers_do_not() -> None:
    world, _ = rambling_run()
    measured = np.array(list(world.scores.update(world.run_state).front.values()))
    wrong = {"sums": ScoredPart(6, 0.0, 30)}

    def is_stopped(tokens: int) -> bool:
        reachable = ReachableObjectives().update(
            world.run_state, lambda _: wrong, lambda *_: {"sums": tokens}
        )
        return bool(list(beaten_in_progress(world.run_state, reachable, measured)))

    done = world.run_state.evaluations[world.run_state.completed[0]].body
    assert isinstance(done, Evaluated)
    most = 10 * done.benchmarks["sums"].metrics["tokens"]
    assert [is_stopped(math.floor(most)), is_stopped(math.ceil(most) + 1)] == [False, True]
    assert not is_stopped(0)


def test_tokens_in_flight_are_lost_with_their_attempt() -> None:
    world, b = rambling_run()
    assert b.held is not None
    name = b.held.evaluation
    ((_, attempt),) = world.run_state.active_attempts()
    b.in_flight = 40_000
    b.beat()
    world.exchange()
    assert not events(world, Beaten)
    assert world.fleet.generated("b", attempt.lease) == {"sums": 40_000}
    assert world.fleet.generated("a", attempt.lease) == {}
    assert world.fleet.generated("b", f"{attempt.lease}0") == {}
    again = world.join("b")
    for _ in range(3):
        again.beat()
        world.exchange()
    assert again.held is not None
    assert again.held.evaluation == name
    assert again.held.lease != attempt.lease
    assert world.fleet.generated("b", attempt.lease) == {}
    assert world.fleet.generated("b", again.held.lease) == {}


def test_a_number_of_tokens_that_cannot_be_is_ignored() -> None:
    world, b = rambling_run(at_most={"tokens": 900.0})
    assert world.run_state.spec is not None
    most = 10 * world.run_state.spec.generation.max_tokens
    beat(world, b, most + 1)
    assert not events(world, Beaten)
    beat(world, b, most)
    assert events(world, Beaten)


def test_of_two_numbers_of_tokens_the_larger_one_counts() -> None:
    parts = {"a": ScoredPart(2, 1.0, 30), "b": ScoredPart(1, 0.0, 30)}
    answers = {"a": 10, "b": 10, "c": 10}
    generated = {"a": 20, "b": 40, "c": 50, "d": 60}
    assert with_tokens(parts, generated, answers, longest=5) == {
        "a": ScoredPart(2, 1.0, 30),
        "b": ScoredPart(1, 0.0, 40),
        "c": ScoredPart(0, 0.0, 50),
    }
    assert with_tokens(parts, generated, answers, longest=4).keys() == {"a", "b"}


@pytest.mark.parametrize(("evaluations", "spent"), [(2, 1.5), (4, 3.5)])
def test_a_run_ends_as_near_to_its_limit_as_it_can(evaluations: int, spent: float) -> None:
    """Half of an evaluation is left by the one that is stopped, so that no other is begun."""
    world, b = rambling_run({**BUDGET, "evaluations": evaluations})
    answer(world, b, 5)
    world.exchange()
    assert evaluations_spent(world.run_state) == pytest.approx(1.5)
    world.settle()
    assert world.run_state.finished
    assert not world.run_state.failed
    assert evaluations_spent(world.run_state) == pytest.approx(spent)


def test_one_that_has_answered_everything_is_not_told_to_end() -> None:
    world, _ = rambling_run()
    ((evaluation, attempt),) = world.run_state.active_attempts()
    whole = answers_of_a_merge(world.run_state)

    def compared(answered: int) -> set[str]:
        parts = {"sums": ScoredPart(answered, 0.0, 10**6)}
        return {*ReachableObjectives().update(world.run_state, lambda _: parts)}

    assert compared(whole - 1) == {evaluation.id}
    assert compared(whole) == set()
    attempt.answered_at = world.now  # and not all scored
    assert compared(whole - 1) == set()


def test_what_is_stopped_counts_towards_the_patience_at_its_cost() -> None:
    """Each takes half a second, and the measured merge a second."""
    world, b = rambling_run({"evaluations": 90, "initial": 1, "patience": 2})
    stalled = []
    for _ in range(4):
        world.now += 0.5
        answer(world, b, 5)
        world.exchange()
        world.exchange()
        world.scores.update(world.run_state)
        stalled.append(standstill_of_hypervolume(world.run_state, world.scores))
    assert world.run_state.count(EvaluationState.STOPPED) == 4
    assert stalled == ["", "", "", "the hypervolume grew by 0.00% over the last 4 evaluations"]


def test_enough_is_said_again_until_the_result_is_there() -> None:
    world, b = rambling_run()
    answer(world, b, 5)
    world.answers.clear()
    for _ in range(3):
        world.now += 2.0
        b.beat()
        world.collect()
        world.turn()
    said = [m for _, m in world.answers if isinstance(m, Enough)]
    assert len(said) == 3
    assert len(events(world, Beaten)) == 1
    world.exchange()
    world.answers.clear()
    world.now += 10.0
    world.turn()
    assert not [m for _, m in world.answers if isinstance(m, Enough)]


def test_a_result_that_crosses_it_is_kept() -> None:
    world, b = rambling_run()
    assert b.held is not None
    name = b.held.evaluation
    answer(world, b, 5)
    assert events(world, Beaten)
    b.answer(len(PROMPTS))
    b.finish(measured_of(b.held.vector))
    world.exchange()
    assert world.run_state.evaluations[name].state is EvaluationState.DONE
    assert not events(world, Stopped)


def test_after_a_restart_of_the_master_it_is_said_again() -> None:
    world, b = rambling_run()
    answer(world, b, 5)
    world.answers.clear()
    world.restart()
    for _ in range(3):
        world.now += 2.0
        b.beat()
        world.exchange()
    assert len(events(world, Beaten)) == 1
    assert len(events(world, Stopped)) == 1


def test_where_its_worker_dies_the_next_one_ends_it_from_the_kept_answers() -> None:
    world, b = rambling_run()
    assert b.held is not None
    name = b.held.evaluation
    answer(world, b, 5)
    world.answers.clear()
    b.alive = False
    world.now += 100.0
    c = world.join("c")
    for _ in range(20):
        if c.held is not None and c.held.evaluation != name:
            c.finish()
        world.now += 1.0
        c.beat()
        world.exchange()
    assert len(events(world, Beaten)) == 2, "of both attempts"
    evaluation = world.run_state.evaluations[name]
    assert evaluation.state is EvaluationState.STOPPED
    assert evaluation.step is not None
    assert evaluation.step.answered == 5
    assert not c.asked.get(evaluation.attempts[-1].lease)


def test_a_step_that_nobody_asked_for_is_no_result() -> None:
    world, b = rambling_run()
    assert b.held is not None
    name = b.held.evaluation
    b.answer(2)
    b.finish(b._body())
    world.collect()
    world.turn()
    assert not events(world, Paused)
    faults = [attempt.fault for attempt in world.run_state.evaluations[name].attempts]
    assert "infrastructure" in faults


def test_without_the_setting_nothing_is_stopped() -> None:
    world, b = rambling_run(stop_beaten=False)
    answer(world, b, 5)
    assert world.situation().reachable == {}
    assert not events(world, Beaten)


def test_one_that_began_without_the_setting_is_stopped_when_the_run_goes_on_with_it() -> None:
    world, b = rambling_run(stop_beaten=False)
    assert b.held is not None
    assert b.held.longest_first
    changed = world_spec(steps={"stop_beaten": True}, budget=BUDGET)
    event = SpecChanged(spec=changed.model_dump(mode="json"), keys=("steps.stop_beaten",))
    world.record(event)
    answer(world, b, 5)
    assert events(world, Beaten)


def test_one_that_goes_on_after_a_pause_is_stopped_too() -> None:
    world, b = rambling_run(enabled=True, audits=0.0, first=0.4, answered=0.5)
    assert b.held is not None
    name = b.held.evaluation
    evaluation = world.run_state.evaluations[name]
    first = evaluation.step
    assert first is not None
    assert b.held.upto == 0
    b.stream()  # asks for kept answers, of which there are none
    world.exchange()
    answer(world, b, 5)
    world.now += 2.0
    b.beat()
    world.exchange()
    assert evaluation.state is EvaluationState.STOPPED
    assert evaluation.step is not None
    assert evaluation.step.answered > first.answered
    assert world.run_state.spending.answers_in_part == sum(
        e.step.answered
        for e in world.run_state.evaluations.values()
        if e.step is not None and e.state is not EvaluationState.DONE
    )
    assert RunState().replay(world.stored) == world.run_state


def test_references_and_checks_of_estimates_are_never_stopped() -> None:
    world, b = rambling_run(enabled=True, audits=1.0, first=0.9, answered=1.0)
    answer(world, b, 5)
    assert world.situation().reachable == {}
    assert not events(world, DuplicateResult)
    assert {e.evaluation[0] for e in events(world, Leased)} >= {"t", "i", "e"}


def objectives_in_full(accuracy: float, tokens: float) -> Array:
    """The objectives (2,) of a merge of these means in `RAMBLING`."""
    world, _ = RAMBLING
    done = world.run_state.evaluations[world.run_state.completed[0]]
    before, done.body = done.body, measurement(accuracy, tokens)
    try:
        return np.array(score(world.run_state, done))
    finally:
        done.body = before


def assert_is_a_bound(best: Array, whole: Array, measured: Array) -> None:
    """A merge has no more in full than its ``best``; only what is worse in all is stopped."""
    assert (whole <= best + ROUNDING).all()
    run_state = RAMBLING[0].run_state
    name = next(e.id for e, _ in run_state.active_attempts())
    if list(beaten_in_progress(run_state, {name: best}, measured[None])):
        assert (measured >= whole).all()


@given(
    scores=st.lists(st.sampled_from([0.0, 1.0]), min_size=10, max_size=10),
    tokens=st.lists(st.integers(1, 5000), min_size=10, max_size=10),
    answered=st.integers(0, 10),
    rival=st.tuples(st.floats(0.0, 1.0), st.floats(1.0, 4000.0)),
)
def test_what_is_stopped_could_never_have_been_on_the_front(
    scores: list[float], tokens: list[int], answered: int, rival: tuple[float, float]
) -> None:
    world, _ = RAMBLING
    part = ScoredPart(answered, sum(scores[:answered]), sum(tokens[:answered]))
    best = np.array(best_with(world.run_state, {"sums": part}, {"sums": 10}))
    whole = objectives_in_full(sum(scores) / 10, sum(tokens) / 10)
    assert_is_a_bound(best, whole, objectives_in_full(*rival))


@given(
    scores=st.lists(st.sampled_from([0.0, 1.0]), min_size=10, max_size=10),
    tokens=st.lists(st.integers(1, 900), min_size=10, max_size=10),
    lanes=st.integers(1, 10),
    late=st.integers(0, 10),
    moment=st.floats(0.0, 1.0),
    rival=st.tuples(st.floats(0.0, 1.0), st.floats(1.0, 900.0)),
)
def test_at_no_moment_of_a_generation_a_member_of_the_front_is_stopped(
    scores: list[float], tokens: list[int], lanes: int, late: int, moment: float,
    rival: tuple[float, float],
) -> None:  # fmt: skip
    """``lanes`` answers at once; up to ``late`` of the ended ones are not scored yet."""
    world, _ = RAMBLING
    free = [0] * lanes
    spans = []
    for length in tokens:
        begin = heapq.heappop(free)
        heapq.heappush(free, begin + length)
        spans.append((begin, begin + length))
    now = math.floor(moment * max(free))
    ended = [n for n, (_, end) in enumerate(spans) if end <= now][: 10 - late]
    part = ScoredPart(len(ended), sum(scores[n] for n in ended), sum(tokens[n] for n in ended))
    so_far = sum(min(max(now - begin, 0), end - begin) for begin, end in spans)
    parts = with_tokens({"sums": part}, {"sums": so_far}, {"sums": 10}, 900)
    best = np.array(best_with(world.run_state, parts, {"sums": 10}))
    whole = objectives_in_full(sum(scores) / 10, sum(tokens) / 10)
    assert_is_a_bound(best, whole, objectives_in_full(*rival))
    assert (best <= best_with(world.run_state, {"sums": part}, {"sums": 10})).all()


@given(
    scores=st.lists(st.sampled_from([0.0, 1.0]), min_size=10, max_size=10),
    tokens=st.lists(st.integers(1, 5000), min_size=10, max_size=10),
    answered=st.integers(0, 10),
    least=st.floats(0.0, 1.0),
    most=st.floats(1.0, 5000.0),
)
def test_what_is_stopped_for_a_limit_breaks_it_in_full(
    scores: list[float], tokens: list[int], answered: int, least: float, most: float
) -> None:
    world, _ = RAMBLING
    before = world.run_state.spec
    limited = world_spec(at_least={"sums": least}, at_most={"tokens": most})
    part = ScoredPart(answered, sum(scores[:answered]), sum(tokens[:answered]))
    try:
        world.run_state.spec = limited
        best = best_with(world.run_state, {"sums": part}, {"sums": 10})
    finally:
        world.run_state.spec = before
    assert len(best) == 2
    whole = raw_metrics(measurement(sum(scores) / 10, sum(tokens) / 10))
    broken = broken_constraints(limited, whole)
    if np.isneginf(best).any():
        assert broken
    elif answered == 10:
        assert not broken


def test_the_best_is_computed_once_for_the_same_answers() -> None:
    world, b = rambling_run()
    answer(world, b, 1)
    reachable = ReachableObjectives()
    tokens = {"sums": 1}
    first = reachable.update(world.run_state, world.tables.scored, lambda *_: dict(tokens))
    again = reachable.update(world.run_state, world.tables.scored, lambda *_: dict(tokens))
    assert list(first) == list(again) == [b.held.evaluation if b.held else ""]
    assert all(first[name] is again[name] for name in first)
    answer(world, b, 1)
    later = reachable.update(world.run_state, world.tables.scored)
    assert all(later[name] is not first[name] for name in first)
    tokens["sums"] = 30_000
    last = reachable.update(world.run_state, world.tables.scored, lambda *_: dict(tokens))
    assert all((last[name] <= later[name]).all() for name in later)
    assert all((last[name] < later[name]).any() for name in later)


def test_where_more_tokens_are_better_no_end_of_them_is_known() -> None:
    world, _ = rambling_run()
    spec = world.run_state.spec
    assert spec is not None
    rows = [
        {"name": "right", "metric": "accuracy", "scale": [0.0, 1.0]},
        {"name": "long", "metric": "tokens", "scale": [0.0, 1000.0], "direction": "maximise"},
    ]
    objectives = tuple(map(ObjectiveSection.model_validate, rows))
    world.run_state.spec = spec.model_copy(update={"objectives": objectives})
    best = best_with(world.run_state, {"sums": ScoredPart(4, 1.0, 500)}, {"sums": 10})
    assert best[0] == pytest.approx(0.7)
    assert best[1] > 1e6


RAMBLING = rambling_run()
