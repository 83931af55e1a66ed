"""What a probe says of a run: costs in three cases, limits of the budget, and the lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from apbmm.probe.forecast import Plan, Probed, reckon
from apbmm.probe.speed import Speed, TimedAnswer
from apbmm.probe.view import Shown, lines
from apbmm_common.protocol.messages import BenchmarkResult, Evaluated
from apbmm_common.run_file import BudgetSection
from rehearsal_runs import run_spec


def probed(
    source: str, tokens: int, stages: Mapping[str, float] = MappingProxyType({}), truncated: int = 0
) -> Probed:
    """A source whose answers have ``tokens`` tokens, at 0.1 s each, however many there are."""
    count = 10
    result = BenchmarkResult(
        metrics={"accuracy": 0.5, "tokens": float(tokens)},
        questions=count,
        truncated=truncated,
        outcomes=tuple((str(n), 0.5, tokens, "stop") for n in range(count)),
    )
    body = Evaluated(benchmarks={"sums": result}, stages={"report": 2.0, **stages})
    answers = [TimedAnswer(tokens - n, 0.1 * (tokens - n)) for n in range(count)]
    return Probed(source, body, tuple(answers))


def plan(answers: int = 10, at_once: int = 256, **budget: Any) -> Plan:
    limits = BudgetSection.model_validate({"initial": 2, **budget})
    return Plan({"sums": answers}, limits, 1000, at_once)


PAIR = (
    probed("instruct", 100, {"start engine": 20.0, "merge": 1.0}),
    probed("thinking", 400, {"merge": 3.0, "load": 2.0}),
)


def test_a_run_as_large_as_the_probe_costs_what_the_probe_says() -> None:
    found = reckon(PAIR, plan(evaluations=40), 8.0, 1)
    for cost in (found.low, found.likely, found.high):
        assert cost.start == 28.0
        assert cost.load == 5.0
        assert cost.report == 2.0
        assert (cost.evaluations, cost.limit) == (42, "evaluations")
    # Answers beside each other do not slow each other down: the longest takes all the time.
    assert found.low.answers == pytest.approx(40.0, rel=1e-3)
    assert found.likely.answers == pytest.approx(40.0, rel=1e-3)
    assert found.high.answers == pytest.approx(50.0, rel=1e-3)
    assert [cost.tokens for cost in (found.low, found.likely, found.high)] == [190, 250, 500]
    assert found.likely.gpu_hours == pytest.approx((42 * 47.0 + 28.0) / 3600, rel=1e-3)


def test_more_answers_than_were_seen_widen_the_range() -> None:
    found = reckon(PAIR, plan(answers=160, evaluations=40), 0.0, 1)
    assert found.low.answers == pytest.approx(40.0, rel=1e-2)
    assert found.high.answers > 3.5 * found.low.answers
    assert found.low.evaluation < found.likely.evaluation < found.high.evaluation
    assert (found.low.report, found.high.report) == (2.0, 32.0)
    assert found.likely.report == 8.0


def test_the_engine_has_only_so_many_answers_at_once() -> None:
    found = reckon(PAIR, plan(answers=100, at_once=10, evaluations=40), 0.0, 1)
    assert found.asked_at_once == 10
    # 100 answers of 200 tokens on average in 10 places.
    assert found.low.answers == pytest.approx(0.1 * 200 * 10, rel=0.2)


def test_no_answer_is_longer_than_the_limit() -> None:
    limited = Plan({"sums": 10}, BudgetSection(evaluations=4, initial=2), 420)
    assert reckon(PAIR, limited, 0.0, 1).high.tokens == 420


def test_the_budget_is_the_limit_that_is_reached_first() -> None:
    found = reckon(PAIR, plan(evaluations=40, gpu_hours=0.1), 0.0, 2)
    assert found.likely.limit == "gpu_hours"
    assert found.likely.evaluations == 4  # 360 s of a card, 94 for each
    tokens = reckon(PAIR, plan(evaluations=None, generated_tokens=10_000), 0.0, 1)
    assert (tokens.likely.evaluations, tokens.likely.limit) == (4, "generated_tokens")


def test_workers_share_the_evaluations() -> None:
    found = reckon(PAIR, plan(evaluations=40), 8.0, 1).likely
    assert found.wall(1) == pytest.approx(28 + 42 * 48.0, rel=1e-3)
    assert found.wall(8) == pytest.approx(28 + 6 * 48.0, rel=1e-3)


def test_everything_is_told() -> None:
    pair = (PAIR[0], probed("thinking", 400, truncated=3))
    forecast = reckon(pair, plan(answers=160, evaluations=40), 8.0, 1)
    text = "\n".join(lines(Shown(run_spec(), "0", 3_000_000_000, 10_000, pair, forecast)))
    for piece in (
        "instruct     sums 50.0% 100.0 tokens, 0 of 10 cut",
        "speed        100 tokens a second with 10 answers at once\n",
        "memory       3.0 GB of the host in the largest process of a worker; keys and values of",
        "start        28.0 s of a worker",
        "evaluation   about ",
        "42 evaluations with the references, until the evaluations are spent: about ",
        "GPU-hours",
        "workers      1 in ",
        "reckoned     merges answer with 250 tokens, the mean of the sources; 199 if",
        "the run has up to 160 answers at once, the probe had 10",
        "note: thinking: 3 of 10 answers to sums were cut off at max_tokens",
    ):
        assert piece in text
    assert "note: objective reasoning: thinking (50.0%) is not better than instruct (50.0%)" in text
    assert "objective cost" not in text
    assert " of one worker" in "\n".join(lines(Shown(run_spec(), "cpu", 1, None, pair, forecast)))


def test_a_speed_of_one_answer_that_the_probe_does_not_tell_is_left_out() -> None:
    forecast = reckon(PAIR, plan(evaluations=40), 8.0, 1)
    told = replace(forecast, speed=Speed(0.0, 0.02, 0.001))
    text = "\n".join(lines(Shown(run_spec(), "cpu", 1, None, PAIR, told)))
    assert "333 tokens a second with 10 answers at once; fitted to how they ended, 48 wi" in text
    for unknown in (Speed(0.0, 0.02, 0.0), Speed(0.0, 0.0, 0.01)):
        shown = Shown(run_spec(), "cpu", 1, None, PAIR, replace(forecast, speed=unknown))
        assert "with one" not in "\n".join(lines(shown))


def test_a_target_that_all_sources_reach_is_told() -> None:
    cost = {"name": "cost", "metric": "tokens", "target": 500}
    accuracy = {"name": "accuracy", "metric": "accuracy", "target": 0.9}
    forecast = reckon(PAIR, plan(evaluations=40), 8.0, 1)
    spec = run_spec(objectives=[cost, accuracy])
    text = "\n".join(lines(Shown(spec, "0", 3_000_000_000, 10_000, PAIR, forecast)))
    assert "note: objective 'cost': every source reaches the target of 500.0 tokens" in text
    assert "objective 'accuracy'" not in text
