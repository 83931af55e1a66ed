"""EvalScope's output is believed only when it is complete and consistent."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_common.repetitions import Spread
from apbmm_worker.evaluation.outcomes import (
    Report,
    Rows,
    benchmark_result,
    checked_result,
    outcomes_of,
)

ADAPTER = "apbmm_exact"
ALL = range(3)
Row = SimpleNamespace
QUESTIONS = {("test", n): f"q{n}" for n in range(3)}


def prediction(index: int, tokens: int = 5, stop: str = "stop") -> Row:
    """As EvalScope's `ModelResult`."""
    output = SimpleNamespace(
        choices=[SimpleNamespace(stop_reason=stop)],
        usage=SimpleNamespace(output_tokens=tokens),
        time=tokens / 10,
        error=None,
        metadata=None,
    )
    return SimpleNamespace(index=index, model_output=output)


def review(index: int, value: float = 1.0, status: str = "success") -> Row:
    """As EvalScope's `ReviewResult`."""
    score = SimpleNamespace(
        value={"acc": value, "F1": value / 2, "length": None},
        status=SimpleNamespace(value=status),
        main_score_name="acc",
        metadata={"well_formed": index != 1},
    )
    return SimpleNamespace(index=index, sample_score=SimpleNamespace(score=score))


def report(score: object = 2 / 3, tokens: object = 20 / 3, **scores: float) -> Report:
    return Report(score, tokens, means=scores, others={"accuracy:pass_at_k[k=1]": 0.6667})


def written(predictions: list[Row], reviews: list[Row], subset: str = "test") -> tuple[Rows, Rows]:
    return [(subset, row) for row in predictions], [(subset, row) for row in reviews]


def test_outcomes_come_in_the_order_of_the_questions() -> None:
    rows = written(
        [prediction(2, 7), prediction(0, 4), prediction(1, 9, "max_tokens")],
        [review(1, 0.0), review(2), review(0)],
    )
    outcomes = outcomes_of(*rows, ADAPTER, QUESTIONS, str.lower)
    assert [(o.question, o.score, o.tokens, o.finish_reason) for o in outcomes] == [
        ("q0", 1.0, 4, "stop"),
        ("q1", 0.0, 9, "length"),
        ("q2", 1.0, 7, "stop"),
    ]
    result = benchmark_result(outcomes)
    assert (result.questions, result.truncated, result.malformed) == (3, 1, 1)
    assert result.metrics == pytest.approx(
        {
            "accuracy": 2 / 3, "tokens": 20 / 3, "seconds": 2 / 3, "truncated": 1 / 3,
            "acc": 2 / 3, "f1": 1 / 3,
        }
    )  # fmt: skip
    assert result.outcomes == (
        ("q0", 1.0, 4, "stop"),
        ("q1", 0.0, 9, "length"),
        ("q2", 1.0, 7, "stop"),
    )


def test_several_answers_to_a_question_have_a_spread() -> None:
    places = {("test", n): f"q{n // 2}#{n % 2 + 1}" for n in range(4)}
    rows = written(
        [prediction(n, tokens) for n, tokens in enumerate((4, 6, 10, 10))],
        [review(n, float(n > 1)) for n in range(4)],
    )
    outcomes = outcomes_of(*rows, ADAPTER, places, str.lower)
    result = checked_result(ADAPTER, outcomes, report(0.5, 7.5, f1=0.25), 2)
    assert (result.questions, result.repeats, result.answers) == (2, 2, 4)
    assert [row[0] for row in result.outcomes] == ["q0#1", "q0#2", "q1#1", "q1#2"]
    assert result.spreads["accuracy"] == Spread(between=0.5, within=0.0)
    assert result.spreads["tokens"] == Spread(between=12.5, within=1.0)
    assert result.spreads.keys() == {"accuracy", "tokens", "seconds", "truncated", "f1"}
    assert result.malformed == 1


def test_scores_are_kept_when_the_report_has_them(caplog: pytest.LogCaptureFixture) -> None:
    rows = written([prediction(n) for n in ALL], [review(n, float(n != 1)) for n in ALL])
    outcomes = outcomes_of(*rows, ADAPTER, QUESTIONS, str.lower)
    metrics = checked_result(ADAPTER, outcomes, report(0.6667, 5, f1=0.3333, acc=0.6)).metrics
    assert metrics.keys() == {
        "accuracy", "tokens", "seconds", "truncated", "f1", "accuracy:pass_at_k[k=1]",
    }  # fmt: skip
    assert metrics["f1"] == 1 / 3
    assert "acc is left out" in caplog.text
    assert "length" not in caplog.text


@pytest.mark.parametrize(("score", "tokens"), [(0.6, 6.666667), (0.6667, 6.6), (None, 6.666667)])
def test_a_report_that_says_otherwise_is_an_error(score: float | None, tokens: float) -> None:
    rows = written(
        [prediction(0, 4), prediction(1, 9), prediction(2, 7)],
        [review(0), review(1, 0.0), review(2)],
    )
    outcomes = outcomes_of(*rows, ADAPTER, QUESTIONS, str.lower)
    with pytest.raises(EvaluationError, match="in EvalScope's report"):
        checked_result(ADAPTER, outcomes, report(score, tokens))


def _without_usage(row: Row) -> Row:
    row.model_output.usage = None
    return row


FAULTS: dict[str, tuple[Callable[[], list[Row]], Callable[[], list[Row]], str]] = {
    "no answer": (
        lambda: [prediction(0), prediction(1)],
        lambda: [review(n) for n in ALL],
        r"2 of 3 questions have a answer; missing: \['q2'\]",
    ),
    "no score": (
        lambda: [prediction(n) for n in ALL],
        lambda: [review(0)],
        "1 of 3 questions have a score",
    ),
    "twice": (
        lambda: [prediction(n) for n in (0, 1, 1, 2)],
        lambda: [review(n) for n in ALL],
        "answered twice",
    ),
    "not a number": (
        lambda: [prediction(n) for n in ALL],
        lambda: [review(0), review(1, float("nan")), review(2)],
        "question q1 has score nan",
    ),
    "not scored": (
        lambda: [prediction(n) for n in ALL],
        lambda: [review(0), review(1), review(2, status="parse_error")],
        "question q2: parse_error",
    ),
    "no token count": (
        lambda: [prediction(0), _without_usage(prediction(1)), prediction(2)],
        lambda: [review(n) for n in ALL],
        "question q1 has no usable score",
    ),
    "refused": (
        lambda: [prediction(0), prediction(1, stop="content_filter"), prediction(2)],
        lambda: [review(n) for n in ALL],
        "question q1 ended with 'content_filter'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_missing_or_odd_becomes_a_number(fault: str) -> None:
    predictions, reviews, message = FAULTS[fault]
    with pytest.raises(EvaluationError, match=message) as failure:
        outcomes_of(*written(predictions(), reviews()), ADAPTER, QUESTIONS, str.lower)
    assert failure.value.kind == "run_file"


def test_questions_of_another_subset_are_not_taken_for_these() -> None:
    every = ([prediction(n) for n in ALL], [review(n) for n in ALL])
    with pytest.raises(EvaluationError, match="3 of 3 questions have a answer; missing"):
        outcomes_of(*written(*every, subset="train"), ADAPTER, QUESTIONS, str.lower)
