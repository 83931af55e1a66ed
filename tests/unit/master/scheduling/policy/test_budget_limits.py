"""Limits of the budget other than a number of evaluations, and patience: what counts, what ends."""

from __future__ import annotations

from typing import Any

import pytest

from apbmm_master.journal.assessment.scores import ScoreHistory
from apbmm_master.journal.costs.budget import Limit, forecast, limits, reached, roughly
from apbmm_master.journal.costs.cost import gpu_seconds, seconds_served
from apbmm_master.journal.costs.patience import standstill_of_hypervolume
from apbmm_master.journal.lifecycle import AttemptState, EvaluationState
from apbmm_master.journal.state.evaluations import Attempt, Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.state.spending import gpu_seconds_of_result
from apbmm_master.scheduling.policy.decide import decide
from apbmm_master.scheduling.policy.decisions import FinishRun, GrantLease
from apbmm_master.scheduling.policy.situation import Situation
from protocol_world import Sim, World, measurement

EACH = 100.0
"""Seconds of every evaluation."""
DAYS = {"suspect": 1e5, "unreachable": 2e5, "reconcile": 1e5, "orphan_grace": 1e5}
"""Timings with which nobody is lost."""


def world_of(names: str = "a", *, timings: dict[str, float] = DAYS, **budget: Any) -> World:
    world = World(budget={"evaluations": None, "initial": 2, **budget}, timings=timings)
    for name in names:
        world.join(name)
    exchange(world)
    return world


def work(world: World, most: int = 200) -> None:
    """All workers evaluate, in step, until the run is over."""
    for _ in range(most):
        if world.end is not None:
            return
        world.now += EACH
        for worker in world.alive:
            if worker.held is not None:
                worker.finish()
        exchange(world)
    raise AssertionError("not finished")


def exchange(world: World) -> None:
    """Let messages flow; what an ask proposes is leased in the turn after."""
    world.exchange()
    world.exchange()


def limit_of(world: World) -> Limit:
    (limit,) = limits(world.run_state)
    return limit


def hours(seconds: float) -> float:
    return seconds / 3600


def test_gpu_hours_count_merges_references_and_the_measurement() -> None:
    world = world_of(gpu_hours=hours(10 * EACH))
    work(world)
    assert len(world.run_state.completed) == 7
    assert world.end == FinishRun("0.28/0.28 GPU-hours are spent, 7 evaluations completed")
    assert limit_of(world).spent == pytest.approx(hours(10 * EACH))
    spent = sum(gpu_seconds(world.run_state, world.now).values())
    assert spent == pytest.approx(world.run_state.spending.gpu_seconds)


def test_generated_tokens_count_the_answers_of_merges_and_references() -> None:
    world = world_of(generated_tokens=20_000)
    work(world)
    # By the world's landscape the references generate 11,000 tokens in their 10 answers each.
    assert world.run_state.spending.references.tokens == 11_000
    merges = world.run_state.spending.merges
    assert 20_000 <= 11_000 + merges.tokens < 20_000 + merges.tokens / (merges.count - 1)
    assert world.end is not None
    assert "/20,000 generated tokens are spent" in world.end.reason


@pytest.mark.parametrize("names", ["a", "abc", "abcdefgh"])
@pytest.mark.parametrize("evaluations", [5.0, 20.5, 31.0])
def test_what_is_in_progress_counts_with_its_expected_cost(names: str, evaluations: float) -> None:
    """A limit is passed by less than one evaluation, however many workers there are."""
    most = evaluations * EACH + 3 * EACH
    world = world_of(names, gpu_hours=hours(most))
    if len(names) > 1:  # the first evaluations are begun before their cost is known
        world.now += EACH
        for worker in world.alive:
            if worker.held is not None and worker.held.evaluation in (
                "measure",
                "thinking",
                "instruct",
            ):
                worker.finish()
        exchange(world)
    work(world)
    spent = world.run_state.spending.gpu_seconds
    assert most <= spent < most + EACH * (1 if evaluations > len(names) else len(names))


def test_the_first_limit_that_is_reached_ends_the_run() -> None:
    many = world_of(evaluations=3, gpu_hours=100.0, generated_tokens=10**9)
    work(many)
    assert many.end == FinishRun("3 evaluations completed")
    few = world_of(evaluations=30, gpu_hours=hours(5 * EACH), generated_tokens=10**9)
    work(few)
    assert len(few.run_state.completed) == 2


def test_a_lost_attempt_is_paid_for() -> None:
    timings = {"suspect": 5.0, "unreachable": 10.0, "reconcile": 20.0, "orphan_grace": 30.0}
    world = world_of(timings={"beat": 1.0, **timings}, gpu_hours=hours(10_000))
    (worker,) = world.workers
    worker.alive = False
    worker.says.clear()
    world.pass_time(60.0)
    (attempt,) = world.run_state.evaluations["measure"].attempts
    assert attempt.worker_lost
    assert attempt.ended_at is not None
    lost = attempt.ended_at - attempt.leased_at
    assert world.run_state.spending.gpu_seconds == pytest.approx(lost)
    assert lost >= 40.0


@pytest.mark.parametrize(("kept", "seconds"), [(0, 360.0), (9, 3960.0)])
def test_a_result_has_taken_the_attempts_whose_answers_it_uses(kept: int, seconds: float) -> None:
    evaluation = Evaluation("e0001", "search", (0.5,), 1, 0)
    evaluation.attempts = [
        Attempt(1, "e0001.1", "a", "1", 1, 0.0, state=AttemptState.LOST, gpu_seconds=3600.0),
        Attempt(2, "e0001.2", "b", "2", 1, 0.0, kept, AttemptState.DONE, gpu_seconds=360.0),
    ]
    assert gpu_seconds_of_result(evaluation) == seconds


def test_each_card_of_a_worker_counts() -> None:
    world = World(timings=DAYS)
    worker = world.join("a")
    (hello,) = worker.says
    worker.says[:] = [hello.model_copy(update={"gpu": "0,1"})]
    exchange(world)
    world.now += EACH
    worker.finish()
    exchange(world)
    assert world.run_state.spending.gpu_seconds == pytest.approx(2 * EACH)


def finish_after_a_pause(worked: float) -> World:
    """A worker that worked for 10 s, then for ``worked`` s in all while a night went by."""
    world = world_of(gpu_hours=1.0)
    (worker,) = world.workers
    world.now += 10.0
    world.join("b").alive = False  # the last event before the night
    exchange(world)
    world.now += 30_000.0
    world.restart()
    worker.hello()
    exchange(world)
    worker.finish(seconds=worked)
    exchange(world)
    return world


@pytest.mark.parametrize(("worked", "paid"), [(1.0, 10.0), (500.0, 500.0), (1e9, 30_010.0)])
def test_time_without_a_master_counts_as_far_as_the_worker_went_on(
    worked: float, paid: float
) -> None:
    world = finish_after_a_pause(worked)
    assert world.run_state.spending.gpu_seconds == pytest.approx(paid)
    assert seconds_served(world.run_state, world.now) == pytest.approx(10.0)
    assert gpu_seconds(world.run_state, world.now)["measure"] == pytest.approx(paid)


def test_a_late_result_costs_what_its_worker_says_and_no_more() -> None:
    """A lease that was given up after 40 s of silence is delivered ten minutes later."""
    timings = {"suspect": 5.0, "unreachable": 10.0, "reconcile": 20.0, "orphan_grace": 30.0}
    world = world_of(timings={"beat": 1.0, **timings}, gpu_hours=1.0)
    (worker,) = world.workers
    world.pass_time(600.0, silent=[worker])
    lost = world.run_state.spending.gpu_seconds
    assert 40.0 <= lost < 60.0
    worker.welcome = False
    worker.finish(seconds=70.0)
    for _ in range(2):
        worker.beat()
        exchange(world)
    assert world.run_state.evaluations["measure"].state is EvaluationState.DONE
    assert world.run_state.spending.gpu_seconds == pytest.approx(70.0)


def test_a_resumed_master_decides_the_same() -> None:
    world = world_of("ab", gpu_hours=hours(12 * EACH), generated_tokens=10**6, patience=50)
    for _ in range(100):
        if world.end is not None:
            break
        again = RunState().replay(world.stored)
        assert again.spending == world.run_state.spending
        assert limits(again) == limits(world.run_state)
        situation = world.situation()
        assert decide(again, world.fleet, situation) == decide(
            world.run_state, world.fleet, situation
        )
        world.now += EACH
        for worker in world.alive:
            if worker.held is not None:
                worker.finish()
        exchange(world)
    assert world.end is not None


def test_a_limit_that_is_spent_by_the_references_ends_the_run_as_failed() -> None:
    """Nothing more is leased once the measurement and one reference have cost it all."""
    world = world_of(gpu_hours=hours(1.5 * EACH))
    work(world)
    assert world.end is not None
    assert world.end.failed
    assert "before all references were measured (hint: raise budget.gpu_hours" in world.end.reason
    assert world.run_state.evaluations["thinking"].state is EvaluationState.DONE
    assert not world.run_state.evaluations["instruct"].attempts


def test_the_reference_that_takes_longest_is_leased_first() -> None:
    timings = {"suspect": 5.0, "unreachable": 10.0, "reconcile": 20.0, "orphan_grace": 30.0}
    world = world_of("a", timings={"beat": 1.0, **timings}, evaluations=4)
    world.workers[0].finish()
    exchange(world)
    assert leased(world) == ["thinking"]
    world.join("b")
    exchange(world)
    assert leased(world) == ["thinking", "instruct"]
    first, second = world.workers
    first.bye()  # at once; the attempt at instruct goes on for an hour
    world.pass_time(300.0)
    second.bye()
    exchange(world)
    assert leased(world) == []
    world.join("c")
    exchange(world)
    assert leased(world) == ["instruct"]


def leased(world: World) -> list[str]:
    return [evaluation.id for evaluation, _ in world.run_state.active_attempts()]


def test_the_time_left_is_that_of_the_first_limit() -> None:
    world = world_of("ab", evaluations=100, gpu_hours=hours(11 * EACH))
    assert forecast(world.run_state, world.now) is None
    for _ in range(3):  # 3 and 2 merges have come back
        world.now += EACH
        for worker in world.alive:
            if worker.held is not None:
                worker.finish()
        exchange(world)
    assert world.run_state.spending.merges.count == 3
    found = forecast(world.run_state, world.now)
    assert found is not None
    # 6 of 11 are spent, two more are in progress.
    assert found.limit == "gpu_hours"
    assert found.seconds == pytest.approx(5 * EACH / 2)
    assert found.merges == pytest.approx(5.0)
    assert (found.measured, found.cards) == (3, 2)
    assert found.each == pytest.approx(EACH)
    later = forecast(world.run_state, world.now + 10.0)
    assert later is not None
    assert later.seconds == pytest.approx(5 * EACH / 2 - 10.0)
    alone = forecast(world.run_state, world.now, away=["b"])
    assert alone is not None
    assert alone.seconds == pytest.approx(5 * EACH)


def test_the_time_left_does_not_jump_when_a_worker_waits_for_its_next_merge() -> None:
    world = world_of("ab", evaluations=8)
    for _ in range(3):
        world.now += EACH
        for worker in world.alive:
            if worker.held is not None:
                worker.finish()
        exchange(world)
    world.now += EACH
    before = forecast(world.run_state, world.now)
    (first, *_) = (worker for worker in world.alive if worker.held is not None)
    first.finish()
    world.collect()
    for identity, message in world.on_the_way:
        world.handlers.handle(identity, message, world.now)
    assert len(list(world.run_state.active_attempts())) == 1
    after = forecast(world.run_state, world.now)
    assert before is not None
    assert after is not None
    assert (before.cards, after.cards) == (2, 2)
    assert after.seconds == pytest.approx(before.seconds, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (20.0, "less than 1 min"),
        (125.0, "about 2 min"),
        (50 * 60.0, "about 50 min"),
        (100 * 60.0, "about 1.5 h"),
        (30 * 3600.0, "about 30 h"),
    ],
)
def test_a_time_left_is_said_coarsely(seconds: float, words: str) -> None:
    assert roughly(seconds) == words


# ---- patience ------------------------------------------------------------------------------


class Patient(World):
    """A world whose master knows the hypervolume."""

    history = ScoreHistory()

    def situation(self) -> Situation:
        self.history.update(self.run_state)
        stalled = standstill_of_hypervolume(self.run_state, self.history)
        before = super().situation()
        return Situation(
            *(before.now, before.listening_since, False, False, None, False, 0.0, stalled)
        )


def patient(patience: int, growth: float = 0.01) -> tuple[Patient, Sim]:
    budget = {"evaluations": 90, "initial": 2, "patience": patience, "patience_growth": growth}
    world = Patient(budget=budget, timings=DAYS)
    worker = world.join("a")
    exchange(world)
    return world, worker


def evaluate(world: World, worker: Sim, accuracy: float, seconds: float = EACH) -> None:
    """The next evaluation; references and measurement as ever."""
    while (
        world.end is None and worker.held is not None and not worker.held.evaluation[1:].isdigit()
    ):
        world.now += EACH
        worker.finish()
        exchange(world)
    assert worker.held is not None
    world.now += seconds
    worker.finish(measurement(accuracy, 500.0))
    exchange(world)


def test_a_run_ends_when_the_hypervolume_has_not_grown_for_long_enough() -> None:
    world, worker = patient(4)
    for accuracy in (0.3, 0.3, 0.5, 0.5, 0.6, 0.6, 0.6, 0.6):
        evaluate(world, worker, accuracy)
        assert world.end is None
    evaluate(world, worker, 0.6)
    reason = "the hypervolume grew by 0.00% over the last 4 evaluations, 9 evaluations completed"
    assert world.end == FinishRun(reason, by_patience=True)


def test_growth_below_the_given_share_is_none() -> None:
    world, worker = patient(3, growth=0.5)
    for accuracy in (0.3, 0.3, 0.5, 0.51, 0.52, 0.53):
        evaluate(world, worker, accuracy)
    assert world.end is not None
    assert "over the last 3 evaluations" in world.end.reason


def test_patience_is_measured_in_cost() -> None:
    """Many cheap merges are worth few average ones, and a dear one several."""
    world, worker = patient(2)
    for _ in range(4):
        evaluate(world, worker, 0.5, EACH)
        if world.end is not None:
            break
    assert len(world.run_state.completed) == 4
    world, worker = patient(2)
    for _ in range(2):
        evaluate(world, worker, 0.5, EACH)
    for _ in range(12):  # together they cost less than two mean evaluations
        evaluate(world, worker, 0.5, 1.0)
    assert world.end is None


def test_the_initial_design_tries_no_patience() -> None:
    world, worker = patient(1)
    for _ in range(2):
        evaluate(world, worker, 0.5)
    assert world.end is None
    evaluate(world, worker, 0.5)
    assert world.end is not None


def test_nothing_more_is_leased_when_patience_is_at_an_end_but_what_runs_is_finished() -> None:
    world = Patient(budget={"evaluations": 90, "initial": 2, "patience": 2}, timings=DAYS)
    workers = [world.join(name) for name in "ab"]
    exchange(world)
    for _ in range(40):
        if world.situation().stalled:
            break
        world.now += EACH
        for worker in workers[:1] if len(world.run_state.completed) > 1 else workers:
            if worker.held is not None:
                search = worker.held.evaluation.startswith("e")
                worker.finish(measurement(0.5, 500.0) if search else None)
        exchange(world)
    (held,) = leased(world)
    assert world.end is None
    granted = decide(world.run_state, world.fleet, world.situation())
    assert not any(isinstance(decision, GrantLease) for decision in granted)
    # What was in progress is better than all before: the search goes on.
    workers[1].finish(measurement(0.9, 100.0))
    exchange(world)
    assert world.run_state.evaluations[held].state is EvaluationState.DONE
    assert world.end is None
    assert len(leased(world)) == 2
    assert reached(world.run_state) is None
