"""Eq. 2: against the paper's Table III, and the references it cannot work with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apbmm_common.metrics import binomial_variance
from apbmm_master.search.errors import NotFiniteError, ReferenceScaleError, SettingError
from apbmm_master.search.reference_scaling import (
    Measurement,
    ScaledObjective,
    check_references,
    objective_variance,
    objective_vector,
)
from paper_tables import TABLE_III

REASONING = ScaledObjective("reasoning", "accuracy", ("gpqa", "aime"), "thinking", "instruct")
COST = ScaledObjective("cost", "tokens", ("gpqa", "aime"), "instruct", "thinking")


def measured(accuracy: tuple[float, float], tokens: tuple[float, float]) -> Measurement:
    return {
        "gpqa": {"accuracy": accuracy[0], "tokens": tokens[0]},
        "aime": {"accuracy": accuracy[1], "tokens": tokens[1]},
    }


REFERENCES = {
    "instruct": measured((0.40, 0.45), (1000.0, 5000.0)),
    "thinking": measured((0.60, 0.75), (9000.0, 15000.0)),
}


def test_the_references_score_zero_and_one() -> None:
    objectives = (REASONING, COST)
    thinking = objective_vector(objectives, REFERENCES["thinking"], REFERENCES)
    instruct = objective_vector(objectives, REFERENCES["instruct"], REFERENCES)
    np.testing.assert_allclose(thinking, [1.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(instruct, [0.0, 1.0], atol=1e-15)


def test_the_mean_over_benchmarks_worked_by_hand() -> None:
    merged = measured((0.50, 0.75), (5000.0, 5000.0))
    value = objective_vector((REASONING, COST), merged, REFERENCES)
    np.testing.assert_allclose(value, [(0.5 + 1.0) / 2, (0.5 + 1.0) / 2])


def test_the_variance_of_a_mean_over_benchmarks_worked_by_hand() -> None:
    merged = {
        "gpqa": {"accuracy": 0.5, "tokens": 5000.0, "questions": 198.0},
        "aime": {"accuracy": 1.0, "tokens": 5000.0, "questions": 30.0},
    }
    gpqa = 0.5 * 0.5 / 198 / 0.2**2
    aime = (31 / 32) * (1 / 32) / 30 / 0.3**2
    variance = objective_variance((REASONING, COST), merged, REFERENCES)
    np.testing.assert_allclose(variance, [(gpqa + aime) / 4, 0.0])


def test_the_variance_is_that_of_the_objective_over_sets_of_questions() -> None:
    """Against scores of simulated sets, at a share where smoothing hardly matters."""
    rng = np.random.default_rng(3)
    objective = ScaledObjective("reasoning", "accuracy", ("gpqa",), "thinking", "instruct")
    shares = rng.binomial(198, 0.55, size=4000) / 198
    values = [
        objective_vector((objective,), {"gpqa": {"accuracy": share}}, REFERENCES)[0]
        for share in shares
    ]
    merged = {"gpqa": {"accuracy": 0.55, "questions": 198.0}}
    (variance,) = objective_variance((objective,), merged, REFERENCES)
    assert variance == pytest.approx(np.var(values), rel=0.1)


def test_a_variance_that_answers_have_shown_goes_before() -> None:
    merged = {
        "gpqa": {"accuracy": 0.5, "tokens": 5000.0},
        "aime": {"accuracy": 1.0, "tokens": 5000.0, "questions": 30.0},
    }
    learned = {"gpqa": {"accuracy": 0.004, "tokens": 64.0}}
    variance = objective_variance((REASONING, COST), merged, REFERENCES, learned)
    aime = (31 / 32) * (1 / 32) / 30 / 0.3**2
    expected = [(0.004 / 0.2**2 + aime) / 4, 64.0 / 8000.0**2 / 4]
    np.testing.assert_allclose(variance, expected)


def test_no_number_of_questions_is_an_error_by_name() -> None:
    with pytest.raises(ReferenceScaleError, match="has no questions"):
        objective_variance((REASONING,), measured((0.5, 0.5), (1.0, 1.0)), REFERENCES)


def test_the_papers_table_iii_to_its_rounding() -> None:
    """A fit of Eq. 2 to Table III: each benchmark's coefficient is 1 / (2 x the references' span).

    Only the spans and the two constant terms are identified, so one vanilla metric of each
    objective is free; the other takes up the constant.
    """
    gpqa_span, aime_span = 0.5 / 2.27270, 0.5 / 1.50032
    gpqa_tokens, aime_tokens = 0.5 / 5.98503e-5, 0.5 / 4.24009e-5
    assert gpqa_span == pytest.approx(0.2200, abs=5e-5)
    assert aime_span == pytest.approx(1 / 3, abs=1e-4)
    aime_accuracy, aime_long = 0.5, 20000.0
    gpqa_accuracy = (2 * 1.69106 - aime_accuracy / aime_span) * gpqa_span
    gpqa_long = (2 * 1.458365 - aime_long / aime_tokens) * gpqa_tokens
    references = {
        "instruct": measured(
            (gpqa_accuracy, aime_accuracy), (gpqa_long - gpqa_tokens, aime_long - aime_tokens)
        ),
        "thinking": measured(
            (gpqa_accuracy + gpqa_span, aime_accuracy + aime_span), (gpqa_long, aime_long)
        ),
    }
    for f1, f2, gpqa, gpqa_count, aime, aime_count in TABLE_III:
        merged = measured((gpqa, aime), (gpqa_count, aime_count))
        value = objective_vector((REASONING, COST), merged, references)
        np.testing.assert_allclose(value, [f1, f2], rtol=0.0, atol=6.5e-5)


def test_references_that_agree_are_refused_by_benchmark() -> None:
    same = {**REFERENCES, "thinking": measured((0.60, 0.45), (9000.0, 15000.0))}
    with pytest.raises(ReferenceScaleError, match=r"'aime'.*cannot be told apart"):
        check_references((REASONING,), same)
    check_references((COST,), same)


def test_an_expert_on_the_wrong_side_is_refused_by_benchmark() -> None:
    worse = {**REFERENCES, "thinking": measured((0.30, 0.75), (9000.0, 4000.0))}
    with pytest.raises(ReferenceScaleError, match=r"'reasoning', benchmark 'gpqa'.*worse"):
        objective_vector((REASONING,), REFERENCES["instruct"], worse)
    with pytest.raises(ReferenceScaleError, match=r"'cost', benchmark 'aime'.*worse"):
        check_references((COST,), worse)


@pytest.mark.parametrize(("questions", "few"), [(60, True), (600, False)])
def test_references_on_the_wrong_sides_are_told_in_the_words_of_sources(
    questions: int, few: bool
) -> None:
    worse = {
        name: {"aime": {"accuracy": accuracy, "questions": questions}}
        for name, accuracy in (("thinking", 0.1333333), ("instruct", 0.22))
    }
    objective = ScaledObjective("reasoning", "accuracy", ("aime",), "thinking", "instruct")
    with pytest.raises(ReferenceScaleError) as caught:
        check_references((objective,), worse)
    said = f"thinking is worse than instruct in accuracy (13.3% against 22.0% on {questions} ques"
    assert said in caught.value.message
    assert "swapped in [sources]?" in caught.value.hint
    assert ("so few questions do not tell the two apart" in caught.value.hint) is few


def test_what_was_not_measured_is_refused() -> None:
    with pytest.raises(ReferenceScaleError, match="'instruct', which was not measured"):
        check_references((REASONING,), {"thinking": REFERENCES["thinking"]})
    with pytest.raises(ReferenceScaleError, match="'aime': the evaluated model has no accuracy"):
        objective_vector((REASONING,), {"gpqa": {"accuracy": 0.5}}, REFERENCES)
    with pytest.raises(NotFiniteError, match="'gpqa'"):
        objective_vector((REASONING,), measured((np.nan, 0.5), (1.0, 1.0)), REFERENCES)


def test_an_objective_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(SettingError, match="names no benchmark"):
        ScaledObjective("speed", "tokens", (), "a", "b")


def test_weights_of_benchmarks_worked_by_hand() -> None:
    objective = ScaledObjective(
        "reasoning", "accuracy", ("gpqa", "aime"), "thinking", "instruct", weights=(3.0, 1.0)
    )
    merged = {
        "gpqa": {"accuracy": 0.5, "questions": 198.0},
        "aime": {"accuracy": 0.75, "questions": 30.0},
    }
    assert objective_vector((objective,), merged, REFERENCES) == pytest.approx([0.625])
    gpqa, aime = (
        binomial_variance(merged[n]["accuracy"], int(merged[n]["questions"])) for n in merged
    )
    expected = gpqa * (0.75 / 0.2) ** 2 + aime * (0.25 / 0.3) ** 2
    assert objective_variance((objective,), merged, REFERENCES) == pytest.approx([expected])


def test_a_scale_in_raw_units_needs_no_references() -> None:
    saved = ScaledObjective("cost", "tokens", ("gpqa", "aime"), scale=(4000.0, 500.0))
    check_references((saved,), {})
    value = objective_vector((saved,), measured((0.5, 0.5), (500.0, 4000.0)), {})
    assert value == pytest.approx([0.5])
    learned = {"gpqa": {"tokens": 49.0}, "aime": {"tokens": 0.0}}
    variance = objective_variance((saved,), {}, {}, learned)
    assert variance == pytest.approx([49.0 / 3500.0**2 / 4])


def test_a_target_scores_one_and_the_worst_source_zero() -> None:
    """By their means over the benchmarks: instruct has 0.425 and thinking 0.675."""
    aimed = ScaledObjective("right", "accuracy", ("gpqa", "aime"), target=0.925)
    instruct, thinking, beyond = (
        objective_vector((aimed,), model, REFERENCES)[0]
        for model in (
            REFERENCES["instruct"],
            REFERENCES["thinking"],
            measured((1.0, 1.0), (0.0, 0.0)),
        )
    )
    assert (instruct, thinking) == pytest.approx((0.0, 0.5))
    assert beyond == pytest.approx(1.15)
    cheap = ScaledObjective("cost", "tokens", ("gpqa",), target=500.0)
    assert objective_vector((cheap,), REFERENCES["thinking"], REFERENCES) == pytest.approx([0.0])


def test_a_target_that_every_source_reaches_is_refused() -> None:
    easy = ScaledObjective("right", "accuracy", ("gpqa", "aime"), target=0.425)
    with pytest.raises(
        ReferenceScaleError, match=r"reaches the target of 42\.5%: instruct"
    ) as caught:
        check_references((easy,), REFERENCES)
    assert "scale" in caught.value.hint
    with pytest.raises(ReferenceScaleError, match="thinking, the worst of them, has 9000"):
        check_references((ScaledObjective("c", "tokens", ("gpqa",), target=9e3),), REFERENCES)


def test_a_direction_of_its_own_says_which_source_is_the_better_one() -> None:
    bad = ScaledObjective("bad", "accuracy", ("gpqa",), "instruct", "thinking", better="lower")
    check_references((bad,), REFERENCES)
    with pytest.raises(ReferenceScaleError, match="higher is better") as caught:
        check_references(
            (ScaledObjective("x", "accuracy", ("gpqa",), "instruct", "thinking"),), REFERENCES
        )
    assert "scale = [LOW, HIGH]" in caught.value.hint


@given(
    values=st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 9)), min_size=1, max_size=4),
    scale=st.tuples(st.floats(-5, 5), st.floats(6, 9)),
)
def test_a_scaled_mean_is_between_its_benchmarks(
    values: list[tuple[float, float]], scale: tuple[float, float]
) -> None:
    names = tuple(map(str, range(len(values))))
    objective = ScaledObjective(
        "o", "f1", names, weights=tuple(weight for _, weight in values), scale=scale
    )
    model = {name: {"f1": value} for name, (value, _) in zip(names, values, strict=True)}
    (found,) = objective_vector((objective,), model, {})
    scaled = [(value - scale[0]) / (scale[1] - scale[0]) for value, _ in values]
    assert min(scaled) - 1e-9 <= found <= max(scaled) + 1e-9
