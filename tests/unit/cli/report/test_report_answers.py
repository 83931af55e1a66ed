"""Neighbours on the front, question by question."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm.report.data.answers import neighbours, sign_test
from apbmm.report.sections.answers import alike
from apbmm.results.run_results import read_results
from written_runs import answered, repeated_sums, write_run

ENDS = {
    "thinking": answered([1, 1, 1, 1, 1, 0], [900] * 6),
    "instruct": answered([1, 0, 0, 0, 0, 0], [100] * 6),
}
GOOD = answered([1, 1, 0, 1, 1, 0], [700, 600, 500, 600, 700, 500])
CHEAP = answered([0, 1, 1, 0, 0, 0], [300, 300, 300, 300, 300, 300])


def test_neighbours_are_compared_question_by_question(tmp_path: Path) -> None:
    (pair,) = neighbours(read_results(write_run(tmp_path, [CHEAP, GOOD], ends=ENDS)))
    assert (pair.first, pair.second, pair.questions) == ("e0002", "e0001", 6)
    # GOOD is right in questions 0, 3 and 4 where CHEAP is wrong, CHEAP in 2.
    assert (pair.first_better, pair.second_better) == (3, 1)
    assert pair.p == pytest.approx(2 * (1 + 4) / 16)
    assert pair.more_tokens == pytest.approx(300.0)
    assert alike([pair]).startswith("1 of 1 neighbouring pairs on the front differ")


def test_several_answers_to_a_question_count_once_by_their_means(tmp_path: Path) -> None:
    ends = {
        "thinking": answered([1, 1, 1, 1, 1, 0], [900] * 6, 2),
        "instruct": answered([1, 0, 0, 0, 0, 0], [100] * 6, 2),
    }
    good = answered([1, 1, 0, 1, 1, 0], [700, 600, 500, 600, 700, 500], 2)
    cheap = answered([0, 1, 1, 0, 0, 0], [300] * 6, 2)
    run = write_run(tmp_path, [cheap, good], ends=ends, **repeated_sums(2))
    (pair,) = neighbours(read_results(run))
    # Means of the questions: 1, .5, .5 for the good one, .5, .5, 0 for the cheap one.
    assert (pair.questions, pair.first_better, pair.second_better) == (3, 2, 0)
    assert pair.more_tokens == pytest.approx(300.0)


@pytest.mark.parametrize(
    ("better", "worse", "p"), [(0, 0, 1.0), (5, 5, 1.0), (5, 0, 2 / 32), (0, 6, 2 / 64)]
)
def test_the_sign_test_is_exact(better: int, worse: int, p: float) -> None:
    assert sign_test(better, worse) == pytest.approx(p)


def test_the_sign_test_takes_thousands_of_questions() -> None:
    assert 0.0 < sign_test(2600, 2400) < 0.01


def test_a_run_without_answers_has_no_neighbours(tmp_path: Path) -> None:
    assert neighbours(read_results(write_run(tmp_path, [[0.2, 0.9], [0.9, 0.2]]))) == []
