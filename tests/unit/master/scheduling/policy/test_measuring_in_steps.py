"""Merges measured in steps: what is leased, what stops, and how such a run ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from apbmm_common.protocol.messages import Beat, Cancel, Failed, ResultAck
from apbmm_master.journal.assessment.first_steps import Step
from apbmm_master.journal.assessment.scores import ScoreHistory
from apbmm_master.journal.costs.budget import LimitName
from apbmm_master.journal.costs.patience import standstill_of_hypervolume
from apbmm_master.journal.events import (
    AttemptFailed,
    DuplicateResult,
    Estimated,
    Finishing,
    Leased,
    Paused,
    ResultRecorded,
    SpecChanged,
    Stopped,
)
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.scheduling.policy.completion import kept_for_completion, next_to_complete
from apbmm_master.scheduling.policy.decide import decide
from apbmm_master.scheduling.policy.decisions import (
    AskForVectors,
    BeginFinishing,
    Decision,
    FinishRun,
    GrantLease,
    StopEvaluation,
)
from apbmm_master.scheduling.policy.estimated_merges import EstimatedMerges
from protocol_world import RUN, Sim, World, measured_of, result_of, step_of, world_spec
from stepped_merges import estimate

STEPS = {"enabled": True, "first": 0.4, "answered": 0.5, "audits": 0.0}
BUDGET = {"evaluations": 6, "initial": 2, "failures": 3}


def world_of(
    *names: str, steps: Any = None, budget: Any = None, limits: Any = None
) -> tuple[World, list[Sim]]:
    world = World(
        steps={**STEPS, **(steps or {})}, budget={**BUDGET, **(budget or {})}, **(limits or {})
    )
    return world, [world.join(name) for name in names]


def work(world: World, until: Callable[[], bool]) -> None:
    """Workers do what they are given until something is so."""
    for _ in range(200):
        if until():
            return
        world.now += 1.0
        for worker in world.alive:
            if worker.held is not None:
                worker.finish()
            worker.beat()
        world.exchange()
    raise AssertionError("it never was")


def of_state(world: World, state: EvaluationState) -> list[str]:
    return [e.id for e in world.run_state.of_state(state)]


def events(world: World, kind: type) -> list[Any]:
    return [r.event for r in world.stored if isinstance(r.event, kind)]


def decisions(world: World, **situation: Any) -> list[Decision]:
    return decide(world.run_state, world.fleet, replace(world.situation(), **situation))


def held_by(world: World, worker: Sim, until: Callable[[], bool]) -> Any:
    """What a worker holds once something is so; it is not finished."""
    work(world, lambda: worker.held is not None and until())
    return worker.held


def paused_run(count: int = 3, **changes: Any) -> tuple[World, Sim]:
    """A run of one worker in which so many merges have paused."""
    world, (a,) = world_of("a", **changes)
    work(world, lambda: world.run_state.count(EvaluationState.PAUSED) == count)
    return world, a


def test_a_new_merge_is_asked_a_step_and_the_references_everything() -> None:
    world, _ = paused_run()
    asked = {event.evaluation: (event.upto, event.enough) for event in events(world, Leased)}
    assert asked["thinking"] == asked["instruct"] == (0, 0)
    assert asked["e0001"] == asked["e0002"] == (4, 2)


def test_a_merge_that_begins_before_any_reference_is_done_is_asked_everything() -> None:
    world, _ = world_of("a", "b", "c", "d")
    work(world, lambda: len(events(world, Leased)) >= 4)
    asked = {event.evaluation: event.upto for event in events(world, Leased)}
    assert asked["e0001"] == 0


def test_a_pause_is_decided_on_once_it_is_estimated() -> None:
    world, _ = paused_run(1)
    evaluation = world.run_state.evaluations["e0001"]
    assert evaluation.estimate is not None
    told = world.situation().estimated
    assert [merge.evaluation.id for merge in told] == ["e0001"]
    evaluation.estimate = None
    assert EstimatedMerges().update(world.run_state, {}) == ()


def test_an_audited_merge_goes_on_before_another_is_begun() -> None:
    world, _ = world_of("a", steps={"audits": 1.0})
    work(world, lambda: len(world.run_state.completed) == 2)
    order = [(event.evaluation, event.upto) for event in events(world, Leased)[3:]]
    assert order[:4] == [("e0001", 4), ("e0001", 0), ("e0002", 4), ("e0002", 0)]


def test_the_end_completes_the_most_promising_ones_within_the_budget() -> None:
    world, _ = world_of("a", "b")
    world.settle()
    assert len(events(world, Finishing)) == 1
    assert len(world.run_state.evaluations) - 3 > BUDGET["evaluations"], "more than in full"
    completed = {event.evaluation for event in events(world, ResultRecorded)}
    gone_on = {e.evaluation for e in events(world, Leased) if e.attempt > 1}
    assert gone_on <= completed
    spent = float(world.run_state.count(EvaluationState.DONE))
    spent += world.run_state.spending.answers_in_part / 10
    assert 4.5 < spent <= 6.3
    assert "merges measured in part" in world.run_state.finished
    assert of_state(world, EvaluationState.PAUSED), "what is left of them"


@pytest.mark.parametrize(
    ("steps", "any_order"),
    [({"enabled": False}, True), ({"enabled": True}, False), ({"stop_beaten": True}, True)],
)
def test_without_steps_answers_may_be_asked_in_another_order(
    steps: dict[str, Any], any_order: bool
) -> None:
    world, (a,) = world_of("a", steps={"enabled": False, **steps})
    held = held_by(world, a, lambda: a.held is not None and a.held.work == "evaluate")
    assert held.longest_first is any_order


def test_finishing_is_latched_and_begins_no_merge() -> None:
    world, a = paused_run(2)
    held_by(world, a, lambda: a.held is not None and a.held.upto > 0)
    assert decisions(world, exhausted=True) == [BeginFinishing("the method has no more to try")]
    world.record(Finishing(reason="r"))
    a.finish()
    world.collect()
    world.turn()
    found = decisions(world)
    assert not [d for d in found if isinstance(d, AskForVectors | BeginFinishing)]
    work(world, lambda: world.end is not None)
    later = [r.event for r in world.stored if isinstance(r.event, Leased) and r.event.attempt > 1]
    assert later
    assert all(event.upto == 0 for event in later)


def test_patience_completes_the_front_before_it_ends_the_run() -> None:
    world, _ = paused_run(3)
    assert decisions(world, stalled="no growth") == [BeginFinishing("no growth", by_patience=True)]


def test_patience_ends_the_finishing_too() -> None:
    world, a = paused_run(3)
    held_by(world, a, lambda: True)
    world.record(Finishing(reason="r"))
    a.finish()
    world.collect()
    for identity, message in world.on_the_way:
        world.handlers.handle(identity, message, world.now)
    world.on_the_way = []
    assert [d for d in decisions(world) if isinstance(d, GrantLease)]
    (end,) = decisions(world, stalled="no growth")
    assert isinstance(end, FinishRun)
    assert end.reason.startswith("no growth: 0 evaluations completed, 4 merges measured in part")
    assert end.by_patience


def test_patience_begins_anew_with_the_finishing() -> None:
    budget = {"evaluations": 60, "initial": 1, "patience": 3, "patience_growth": 0.9}
    world, _ = world_of("a", steps={"audits": 1.0}, budget=budget)
    work(world, lambda: len(world.run_state.completed) == 6)
    world.scores.update(world.run_state)
    assert standstill_of_hypervolume(world.run_state, world.scores)
    world.record(Finishing(reason="r"))
    assert not standstill_of_hypervolume(world.run_state, world.scores)


def test_paused_merges_of_the_initial_design_count_towards_patience_in_the_finishing() -> None:
    budget = {"evaluations": 60, "initial": 5, "patience": 3, "patience_growth": 0.9}
    world, _ = paused_run(5, budget=budget)
    world.record(Finishing(reason="r"))
    stalled: dict[int, bool] = {}

    def are_completed() -> bool:
        world.scores.update(world.run_state)
        completed = len(world.run_state.completed)
        stalled[completed] = bool(standstill_of_hypervolume(world.run_state, world.scores))
        return completed == 5

    work(world, are_completed)
    assert world.run_state.count(EvaluationState.DONE, purposes=("initial",)) == 5
    assert stalled == {0: False, 1: False, 2: False, 3: False, 4: True, 5: True}


def test_a_run_whose_patience_began_the_finishing_has_ended_by_it() -> None:
    world, _ = paused_run(2)
    world.record(Finishing(reason="no growth", by_patience=True))
    world.settle()
    assert world.end is not None
    assert world.end.by_patience


def test_a_finishing_that_spends_the_budget_has_not_ended_by_patience() -> None:
    world, _ = paused_run(2, budget={"evaluations": 2, "initial": 2})
    world.record(Finishing(reason="no growth", by_patience=True))
    world.settle()
    assert world.end == FinishRun("2 evaluations completed")


def test_a_merge_that_cannot_be_better_than_a_measured_one_is_stopped() -> None:
    world, _ = paused_run(1, steps={"audits": 0.0})
    situation = world.situation()
    (merge,) = situation.estimated
    worse, better = merge.best + 0.01, merge.best - np.array([0.0, 0.01])
    assert not [d for d in decisions(world, measured=better[None]) if isinstance(d, StopEvaluation)]
    (stop,) = decisions(world, measured=worse[None])
    world.dispatch.carry_out(stop, world.now)  # type: ignore[arg-type]
    world.commit()
    assert of_state(world, EvaluationState.STOPPED) == ["e0001"]
    assert [event.evaluation for event in events(world, Stopped)] == ["e0001"]
    world.settle()
    assert "e0001" not in world.run_state.completed


def test_an_audited_merge_is_never_stopped() -> None:
    world, (a,) = world_of("a", steps={"audits": 1.0})
    held_by(world, a, lambda: bool(events(world, Paused)))
    a.alive = False
    world.now += 500.0
    world.turn()
    (merge,) = world.situation().estimated
    assert merge.audited
    assert of_state(world, EvaluationState.PAUSED) == ["e0001"]
    found = decisions(world, measured=merge.best[None] + 1.0)
    assert not [d for d in found if isinstance(d, StopEvaluation)]


def test_without_steps_from_now_on_merges_begin_in_full_and_the_end_is_as_with_them() -> None:
    world, _ = paused_run(2)
    changed = world_spec(steps={"enabled": False}, budget=BUDGET)
    event = SpecChanged(spec=changed.model_dump(mode="json"), keys=("steps.enabled",))
    world.record(event)
    world.commit()
    before = len(events(world, Leased))
    world.settle()
    later = events(world, Leased)[before:]
    assert {lease.upto for lease in later} <= {0, 4}
    assert {lease.upto for lease in later[1:]} == {0}
    assert all(lease.longest_first is (lease.upto == 0) for lease in later)
    assert world.run_state.finishing, "what is paused may still be completed"


# ---- the choice at the end ---------------------------------------------------------------


def test_what_is_kept_grows_with_the_front_of_the_estimates() -> None:
    world, _ = paused_run(3)
    none = np.zeros((0, 2))
    estimated = world.situation().paused
    one, three = (
        kept_for_completion(world.run_state, paused, none)["evaluations"]
        for paused in (estimated[:1], estimated)
    )
    assert one == pytest.approx(0.7 * 0.8), "of what it has not answered"
    assert three == pytest.approx(3 * 0.7 * 0.8), "each of them is better in something"
    beaten = np.array([[9.0, 9.0]])
    assert kept_for_completion(world.run_state, estimated, beaten)["evaluations"] == 0.0


def test_paused_merges_go_on_until_the_front_has_as_many_as_the_run_file_asks_for() -> None:
    world, _ = paused_run(3, steps={"front": 2, "kept": 1.0})
    state, none = world.run_state, np.zeros((0, 2))
    newest = {
        "e0001": estimate((0.3, 0.0001), (120.0, 1.0)),
        "e0002": estimate((0.6, 0.0001), (300.0, 1.0)),
        "e0003": estimate((0.5, 0.0001), (240.0, 1.0)),
    }
    merges = EstimatedMerges().update(state, newest)
    kept = kept_for_completion(state, merges, none)["evaluations"]
    assert kept == pytest.approx(2 * 0.8), "two of the three on the front of the estimates"
    first = next_to_complete(state, merges, (), none)
    assert first is not None
    others = [merge for merge in merges if merge is not first]
    second = next_to_complete(state, others, [first], none)
    assert second is not None
    third = [merge for merge in others if merge is not second]
    assert next_to_complete(state, third, [first, second], none) is None
    done = np.stack([first.mean, second.mean])
    assert next_to_complete(state, third, (), done) is None
    assert kept_for_completion(state, third, done)["evaluations"] == 0.0
    beaten = np.stack([first.mean, first.mean - 0.1])
    assert next_to_complete(state, third, (), beaten) is not None, "one of them is on no front"


def test_measured_merges_that_estimates_beat_do_not_fill_the_front() -> None:
    """Such as those of the audits, which are drawn at random."""
    world, _ = paused_run(1, steps={"front": 2, "kept": 1.0})
    state = world.run_state
    (merge,) = EstimatedMerges().update(state, {"e0001": estimate((0.6, 0.0001), (300.0, 1.0))})
    poor = merge.mean - np.array([[0.1, 0.2], [0.2, 0.1]])
    assert next_to_complete(state, [merge], (), poor) is merge
    assert kept_for_completion(state, [merge], poor)["evaluations"] == pytest.approx(0.8)
    apart = merge.mean + np.array([[-0.1, 0.2], [0.2, -0.1]])
    assert next_to_complete(state, [merge], (), apart) is None


def test_a_run_ends_with_the_front_that_was_asked_for() -> None:
    world, _ = world_of("a", "b", steps={"front": 1})
    world.settle()
    assert world.run_state.finished
    scores = ScoreHistory().update(world.run_state)
    assert scores.completed == len(scores.front) == 1
    assert world.run_state.count(EvaluationState.PAUSED) > 0


def test_a_run_whose_budget_went_into_first_steps_says_so_at_its_end() -> None:
    """The merges of the audits fill the front, so that nothing is kept."""
    world, _ = world_of("a", steps={"front": 1, "audits": 0.5}, budget={"evaluations": 12})
    world.settle()
    state = world.run_state
    in_part = state.count(EvaluationState.PAUSED)
    assert not state.finishing
    assert in_part > 1
    done = len(state.completed)
    assert state.finished == f"{done} evaluations completed, {in_part} merges measured in part"


def test_the_gain_is_what_a_merge_adds_to_those_that_are_completed_already() -> None:
    world, _ = paused_run(3)
    newest = {e: estimate((0.6, 0.0001), (300.0, 1.0)) for e in ("e0001", "e0002")}
    newest["e0003"] = estimate((0.3, 0.0001), (120.0, 1.0))
    one, two, other = EstimatedMerges().update(world.run_state, newest)
    none = np.zeros((0, 2))
    assert next_to_complete(world.run_state, [one, two, other], (), none) in (one, two)
    assert next_to_complete(world.run_state, [two, other], [one], none) is other


def test_what_the_surrogate_expects_of_a_merge_goes_before_its_estimate() -> None:
    """A lucky first step counts for less where merges like it are not that good."""
    world, _ = paused_run(2)
    newest = {e: estimate((0.6, 0.0001), (300.0, 1.0)) for e in ("e0001", "e0002")}
    merges = EstimatedMerges()
    alone, other = merges.update(world.run_state, newest)
    newest = {name: dict(each) for name, each in newest.items()}
    expected = {"e0001": ((0.1, 0.2), (0.3, 0.4))}
    one, two = merges.update(world.run_state, newest, expected)
    assert (one.mean.tolist(), one.deviation.tolist()) == ([0.1, 0.2], [0.3, 0.4])
    assert two.mean.tolist() == other.mean.tolist() == alone.mean.tolist()
    assert one.tokens == alone.tokens


def test_a_merge_that_is_likely_infeasible_gains_nothing_and_nothing_is_kept_for_it() -> None:
    """Of two with the same estimate of the objectives, the one counts whose margin is known."""
    limited = world_spec(at_most={"tokens": 250}, steps=STEPS, budget=BUDGET)
    world, _ = paused_run(3)
    world.run_state.spec = limited
    newest = {
        "e0001": estimate((0.7, 0.0001), (300.0, 25.0)),
        "e0002": estimate((0.6, 0.0001), (240.0, 25.0)),
        "e0003": estimate((0.65, 0.0001), (255.0, 100.0)),
    }
    merges = EstimatedMerges().update(world.run_state, newest)
    assert [merge.feasible for merge in merges] == pytest.approx([0.0, 0.977, 0.309], abs=1e-3)
    assert all(len(merge.mean) == len(merge.deviation) == len(merge.best) == 2 for merge in merges)
    far, within, near = merges
    none = np.zeros((0, 2))
    state = world.run_state
    assert next_to_complete(state, merges, (), none) is within
    assert next_to_complete(state, [far, near], [within], none) is near, "it may be feasible"
    assert next_to_complete(state, [far], (), none) is None
    kept = [kept_for_completion(state, each, none)["evaluations"] for each in ([within], merges)]
    assert kept[0] == kept[1] > 0.0, "a member of the front is expected to meet the limit"
    assert kept_for_completion(state, [far, near], none)["evaluations"] == kept[0], "the likeliest"
    measured = np.array([[0.0, 0.0]])
    assert kept_for_completion(state, [far, near], measured)["evaluations"] == 0.0
    assert kept_for_completion(state, [far], none)["evaluations"] == 0.0


def test_a_run_with_a_limit_completes_what_may_be_within_it_and_its_front_is_within() -> None:
    """Of this world's estimates of tokens the standard deviation is 20."""
    world, _ = world_of("a", "b", limits={"at_most": {"tokens": 120}})
    world.settle()
    tokens = {
        name: measured_of(each.vector).benchmarks["sums"].metrics["tokens"]
        for name, each in world.run_state.evaluations.items()
    }
    completed = [tokens[name] for name in world.run_state.completed]
    assert max(completed) < 120 + 20 * 1.65
    assert max(tokens[name] for name in of_state(world, EvaluationState.PAUSED)) > 153
    front = ScoreHistory().update(world.run_state).front
    assert front
    assert max(tokens[name] for name in front) <= 120


def test_what_the_surrogate_expects_of_a_margin_decides_on_feasibility() -> None:
    world, _ = paused_run(1)
    world.run_state.spec = world_spec(at_least={"sums": 0.5}, steps=STEPS, budget=BUDGET)
    newest = {"e0001": estimate((0.9, 0.0001), (300.0, 1.0))}
    (alone,) = EstimatedMerges().update(world.run_state, newest)
    expected = {"e0001": ((0.1, 0.2, -0.3), (0.3, 0.4, 0.1))}
    (merge,) = EstimatedMerges().update(world.run_state, newest, expected)
    assert (merge.mean.tolist(), merge.deviation.tolist()) == ([0.1, 0.2], [0.3, 0.4])
    assert alone.feasible > 0.99
    assert merge.feasible < 0.01


def test_budget_is_kept_for_a_merge_that_is_expected_to_meet_each_limit() -> None:
    """It meets each with a probability of .69, and all with less than a half."""
    world, _ = paused_run(1)
    limits = {"at_least": {"sums": 0.5}, "at_most": {"tokens": 320}}
    world.run_state.spec = world_spec(**limits, steps=STEPS, budget=BUDGET)
    newest = {"e0001": estimate((0.55, 0.01), (300.0, 1600.0))}
    (merge,) = EstimatedMerges().update(world.run_state, newest)
    assert merge.meets
    assert 0.4 < merge.feasible < 0.5
    measured = np.array([[-0.1, -0.1]])
    assert kept_for_completion(world.run_state, [merge], measured)["evaluations"] > 0.0


def test_a_paused_merge_that_breaks_a_limit_whatever_it_answers_is_stopped_for_that() -> None:
    world, _ = paused_run(1)
    (merge,) = world.situation().estimated
    found = decisions(world, measured=merge.best[None] - 1.0)
    assert not [d for d in found if isinstance(d, StopEvaluation)]
    spent = merge.step.tokens / 10  # a mean over all ten questions that cannot shrink
    world.run_state.spec = world_spec(at_most={"tokens": 0.9 * spent}, steps=STEPS, budget=BUDGET)
    world.estimates = EstimatedMerges()
    (merge,) = world.situation().estimated
    assert np.isneginf(merge.best).all()
    (stop,) = decisions(world, measured=np.array([[-5.0, -5.0]]))
    assert stop == StopEvaluation("e0001", "it breaks a constraint whatever it still answers")


def test_nothing_goes_on_that_the_budget_does_not_allow() -> None:
    world, _ = paused_run(3, budget={"evaluations": 2, "initial": 2})
    paused = world.situation().paused
    assert next_to_complete(world.run_state, paused, (), np.zeros((0, 2))) is not None
    begun = paused[:2]
    left = next_to_complete(world.run_state, paused, begun, np.zeros((0, 2)))
    assert left is None


@pytest.mark.parametrize("name", ["gpu_hours", "generated_tokens"])
def test_other_limits_are_kept_in_their_own_units(name: LimitName) -> None:
    large = {"gpu_hours": 1.0, "generated_tokens": 10**6}[name]
    world, _ = paused_run(2, budget={"evaluations": None, name: large})
    paused = world.situation().paused
    kept = kept_for_completion(world.run_state, paused, np.zeros((0, 2)))
    assert list(kept) == [name]
    if name == "generated_tokens":
        assert kept[name] == pytest.approx(0.7 * (paused[0].tokens + paused[1].tokens))
    assert 0 < kept[name] < large


# ---- messages ----------------------------------------------------------------------------


def test_a_step_is_recorded_acknowledged_and_frees_its_worker() -> None:
    world, (a,) = world_of("a")
    held = held_by(world, a, lambda: a.held is not None and a.held.upto > 0)
    a.finish()
    world.collect()
    world.turn()
    assert ResultAck(run=RUN, lease=held.lease) in [answer for _, answer in world.answers]
    (event,) = events(world, Paused)
    assert (event.evaluation, event.scores) == (held.evaluation, {"sums": 2.0})
    assert event.body.benchmarks["sums"].answered == 2
    world.deliver()
    world.exchange()
    assert a.held is not None


def test_repeated_and_late_steps_change_nothing() -> None:
    world, (a,) = world_of("a", steps={"audits": 1.0})
    held = held_by(world, a, lambda: a.held is not None and a.held.upto > 0)
    a.finish()
    (result,) = a.outbox.values()
    world.exchange()
    before = list(world.stored)
    world.turn([(a.identity, result)])
    assert not [r for r in world.stored[len(before) :] if isinstance(r.event, DuplicateResult)]
    work(world, lambda: held.evaluation in world.run_state.completed)
    body = world.run_state.evaluations[held.evaluation].body
    other = result.model_copy(update={"lease": f"{held.evaluation}.9"})
    world.turn([(a.identity, result), (a.identity, other)])
    assert world.run_state.evaluations[held.evaluation].body == body
    assert world.run_state.evaluations[held.evaluation].state is EvaluationState.DONE
    assert len(events(world, Paused)) == len({e.evaluation for e in events(world, Paused)})


def test_a_pause_that_crosses_a_result_keeps_the_result() -> None:
    """A worker that was given up answers its step when another one has answered everything."""
    world, (a,) = world_of("a", steps={"audits": 1.0})
    held = held_by(world, a, lambda: a.held is not None and a.held.upto > 0)
    a.alive = False
    a.finish()
    (late,) = a.outbox.values()
    a.says.clear()
    world.now += 500.0
    world.turn([])
    b = world.join("b")
    work(world, lambda: held.evaluation in world.run_state.completed)
    recorded = world.run_state.evaluations[held.evaluation].body
    world.turn([(b.identity, late)])
    assert world.run_state.evaluations[held.evaluation].body == recorded
    assert [event.lease for event in events(world, DuplicateResult)] == [held.lease]


def test_a_late_full_result_of_a_paused_merge_counts() -> None:
    world, (a,) = world_of("a", steps={"audits": 1.0})
    held = held_by(world, a, lambda: a.held is not None and a.held.attempt == 2)
    a.alive = False
    b = world.join("b")
    world.now += 500.0
    world.turn()
    assert of_state(world, EvaluationState.PAUSED) == [held.evaluation]
    world.exchange()
    world.turn([(b.identity, result_of(held, measured_of(held.vector)))])
    assert held.evaluation in world.run_state.completed


def test_a_step_that_nobody_asked_for_is_the_workers_fault() -> None:
    world, (a,) = world_of("a")
    held = held_by(world, a, lambda: a.held is not None and a.held.evaluation == "instruct")
    world.turn([(a.identity, result_of(held, step_of(())))])
    (failure,) = events(world, AttemptFailed)
    assert "a stepped body" in failure.message


def test_a_failed_second_attempt_leaves_the_merge_paused_and_goes_to_another_worker() -> None:
    world, (a,) = world_of("a", steps={"audits": 1.0})
    held = held_by(world, a, lambda: a.held is not None and a.held.attempt == 2)
    a.finish(Failed(fault="infrastructure", message="no"))
    b = world.join("b")
    world.exchange()
    world.exchange()
    assert held.evaluation in [worker.held.evaluation for worker in (a, b) if worker.held]
    assert world.run_state.evaluations[held.evaluation].step is not None


def test_a_merge_that_fails_for_its_vector_after_its_pause_is_given_up() -> None:
    world, (a,) = world_of("a", steps={"audits": 1.0})
    held = held_by(world, a, lambda: a.held is not None and a.held.attempt == 2)
    for _ in range(2):
        held_by(world, a, lambda: a.held is not None and a.held.evaluation == held.evaluation)
        a.finish(Failed(fault="vector", message="NaN"))
        world.exchange()
        world.exchange()
    assert of_state(world, EvaluationState.FAILED) == [held.evaluation]


def test_the_lease_and_the_assignment_name_the_step() -> None:
    world, (a,) = world_of("a")
    held = held_by(world, a, lambda: a.held is not None and a.held.upto > 0)
    _, attempt = world.run_state.find(held.lease) or (None, None)
    assert attempt is not None
    assert Step(held.upto, held.enough) == Step(attempt.upto, attempt.enough) == Step(4, 2)


def test_a_worker_that_still_names_a_delivered_step_is_told_to_drop_it() -> None:
    world, (a,) = world_of("a")
    held = held_by(world, a, lambda: a.held is not None and a.held.upto > 0)
    a.finish()
    world.exchange()
    world.answers.clear()
    world.turn([(a.identity, Beat(run=RUN, lease=held.lease, hello=a.hellos))])
    assert Cancel(run=RUN, lease=held.lease) in [answer for _, answer in world.answers]
    assert events(world, Estimated)
