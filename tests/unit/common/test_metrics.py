"""The registry of metrics, and the means that it takes."""

from __future__ import annotations

import pytest

from apbmm_common.metrics import (
    METRICS,
    Metric,
    Outcome,
    binomial_variance,
    in_words,
    means,
    metric,
    register,
    shown_metrics,
)


def outcome(score: float, tokens: int, **changes: object) -> Outcome:
    values = {
        "question": "q", "score": score, "tokens": tokens, "seconds": tokens / 4,
        "finish_reason": "stop", **changes,
    }  # fmt: skip
    return Outcome(**values)  # type: ignore[arg-type]


def test_metrics_are_means_over_the_questions() -> None:
    outcomes = [
        outcome(1.0, 8, scores={"f1": 0.5, "accuracy": 0.0, "rare": 1.0}),
        outcome(0.0, 16, scores={"f1": 0.25, "accuracy": 0.0}, finish_reason="length"),
    ]
    assert means(outcomes) == {
        "accuracy": 0.5, "tokens": 12.0, "seconds": 3.0, "truncated": 0.5, "f1": 0.375,
    }  # fmt: skip


def test_closed_thoughts_are_a_share_of_the_answers_with_a_thought() -> None:
    closed = [True, None, True, False, None]
    outcomes = [outcome(1.0, 8, thought_closed=each) for each in closed]
    assert means(outcomes)["closed_thoughts"] == pytest.approx(2 / 3)
    assert "closed_thoughts" not in means([outcome(1.0, 8)])


def test_values_for_people() -> None:
    values = {"accuracy": 0.7512, "tokens": 41.26, "seconds": 3.0, "truncated": 0.02, "f1": 2 / 3}
    assert in_words(values, [*values, "missing"]) == (
        "75.1% 41.3 tokens 3.00 s 2.0% truncated 0.6667 f1"
    )
    assert metric("seconds").text(None) == "-"


def test_those_of_the_objectives_are_shown_after_those_always_shown() -> None:
    always = ("accuracy", "tokens", "closed_thoughts")
    assert shown_metrics(["f1", "tokens"]) == (*always, "f1")


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two metrics are called tokens"):
        register(Metric("tokens", "", better="higher", of=None))
    assert METRICS["tokens"].better == "lower"


@pytest.mark.parametrize(("share", "variance"), [(0.0, 0.0076389), (0.5, 0.025), (1.0, 0.0076389)])
def test_the_variance_of_a_share_is_above_zero_everywhere(share: float, variance: float) -> None:
    assert binomial_variance(share, 10) == pytest.approx(variance, rel=1e-4)
