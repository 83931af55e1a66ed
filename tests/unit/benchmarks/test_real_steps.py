"""What benchmarks/real_merges/steps does around the engine: answers in turn, budgets, estimates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apbmm_common.metrics import Outcome as AnswerOutcome
from apbmm_common.run_file import parse_run
from apbmm_master.journal.storage.store import Journal
from apbmm_master.optimiser.outcome_book import OutcomeBook
from apbmm_master.search.partial_answers.outcome_estimates import Answers, Estimator, Outcomes
from benchmarks.real_merges.evaluations import Asked, Benchmark, Discrepancy
from benchmarks.real_merges.steps import Outcome, PlainEstimator, outcome
from benchmarks.real_merges.store_master import Answer, StoreMaster, answers_in_order, in_turn

LAYERS = 4


class FakeStore:
    """Evaluations of which the thinking source answers more, with more tokens.

    Merges with more than half of it in the first layer are all wrong, in three times the tokens.
    """

    layers = LAYERS
    asked = Asked("fake", LAYERS)

    def of(self, vector: Sequence[float]) -> Any:
        weight = float(np.mean(vector))
        rambles = vector[0] > 0.5 and weight < 1.0
        solved = tuple(float(q < 4 + 12 * weight and not rambles) for q in range(20))
        times = 3 if rambles else 1
        tokens = tuple(times * (3 + round(30 * weight) + q) for q in range(20))
        return {"sums": Benchmark(solved, tokens)}

    def discrepancy(self) -> Discrepancy:
        return Discrepancy((1.0,) * LAYERS, (1.0,) * LAYERS)


def tokens_of(vector: Sequence[float]) -> int:
    return sum(FakeStore().of(vector)["sums"].tokens)


def searched(folder: Path, budget: dict[str, int], steps: dict[str, Any], opening: int = 0) -> Any:
    """A run of `sobol` on the fake store."""
    table = {
        "name": "fake",
        "sources": {"thinking": "/none/thinking", "instruct": "/none/instruct"},
        "benchmarks": [{"name": "sums", "adapter": "sums", "path": "/none/sums"}],
        "generation": {"max_tokens": 64, "context": 128},
        "algorithm": {"name": "sobol"},
        "budget": {"initial": 4, **budget},
        "evaluation": {"kind": "rehearsal", "layers": LAYERS},
        "steps": steps,
    }
    store: Any = FakeStore()
    with Journal(folder) as journal:
        master = StoreMaster(journal, parse_run(table, "fake"), store, OutcomeBook(), 4, opening)
        asyncio.run(master.search())
    return master


def progress_of(lanes: int) -> list[tuple[list[int], dict[int, int]]]:
    """Which of five questions are answered after each answer, and the tokens of those in flight."""
    asked = [
        Answer("sums", AnswerOutcome(str(i), 1.0, tokens, 0.0, "stop"))
        for i, tokens in enumerate([5, 1, 4, 2, 3])
    ]
    return [
        (
            [int(answer.outcome.question) for answer in progress.answered],
            {int(answer.outcome.question): tokens for answer, tokens in progress.flying},
        )
        for progress in map(deepcopy, in_turn(asked, lanes))
    ]


def test_answers_come_by_their_length_and_those_in_flight_have_as_many_tokens() -> None:
    assert progress_of(1) == [(list(range(n)), {}) for n in range(1, 6)]
    assert progress_of(3)[0] == ([1], {0: 1, 2: 1})
    assert progress_of(3)[1] == ([1, 3], {0: 3, 2: 3})
    assert progress_of(20)[2] == ([1, 3, 4], {0: 3, 2: 3})


def test_a_budget_counts_the_tokens_of_answers_that_were_asked(tmp_path: Path) -> None:
    references = tokens_of([0.0] * LAYERS) + tokens_of([1.0] * LAYERS)
    budget = {"generated_tokens": references + 2500}
    master = searched(tmp_path, budget, {"enabled": True, "first": 0.5, "answered": 1.0})
    state = master.run_state
    spent = float(references)
    for evaluation in state.of_budget():
        answers = answers_in_order(FakeStore().of(evaluation.vector), 0)
        asked = answers if evaluation.body is not None else answers[:10]
        spent += sum(a.outcome.tokens for a in asked) if evaluation.attempts else 0
    assert state.spending.tokens == spent
    assert state.finishing
    found = outcome(master, FakeStore(), references, 0.0)  # type: ignore[arg-type]
    assert found.tokens == spent - references
    assert 0 < len(found.y) < found.begun == len(found.truth)
    assert found.spent[-1] == found.tokens
    assert set(found.y) <= set(found.truth)


def test_the_opening_merges_are_measured_in_full(tmp_path: Path) -> None:
    steps = {"enabled": True, "audits": 0.0}
    state = searched(tmp_path, {"evaluations": 8}, steps, opening=3).run_state
    merges = sorted(state.of_budget(), key=lambda each: each.ordinal)
    assert [each.step is None for each in merges[:5]] == [True, True, True, False, False]


def test_a_beaten_merge_is_stopped_with_what_it_has_answered(tmp_path: Path) -> None:
    state = searched(tmp_path, {"evaluations": 12}, {"stop_beaten": True}).run_state
    every = {each.id: each for each in state.of_budget()}
    stopped = [each for each in every.values() if each.step is not None]
    assert stopped
    for each in stopped:
        assert each.step.tokens < tokens_of(each.vector)
    assert state.spending.answers_in_part == sum(each.step.answered for each in stopped)


def test_the_beginning_of_a_campaign_ends_with_the_evaluation_that_reaches_a_share() -> None:
    y = ((0.1, 0.9), (0.5, 0.5), (0.9, 0.1))
    whole = Outcome(3, 0, 30.0, y, (10.0, 20.0, 30.0), y, (), (), "", 0.0)
    assert [len(whole.beginning(tokens).y) for tokens in (0, 10, 10.5, 20, 30, 99)] == [
        1, 1, 2, 2, 3, 3,
    ]  # fmt: skip
    assert whole.beginning(15).tokens == 20.0


def test_plain_estimates_are_means_of_a_merges_own_answers() -> None:
    rows = np.ones((2, 4))
    answers = Answers(np.array([1.0, 0.0, np.nan, np.nan]), np.array([2.0, 4.0, np.nan, np.nan]))
    found = PlainEstimator(Estimator(Outcomes(rows, rows))).estimate(answers)
    assert (found.accuracy.mean, found.tokens.mean) == (0.5, 3.0)
    assert found.accuracy.variance == pytest.approx(0.25 / 2 * 0.5)
    assert found.tokens.variance == pytest.approx(2.0 / 2 * 0.5)
