"""What a model card says of the questions."""

from __future__ import annotations

from typing import Any

import pytest

from apbmm.export.model_card import questions_in_words
from apbmm_common.run_file import BenchmarkSection


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({}, "all questions of its data file"),
        ({"sample": 60}, "a random sample of 60 questions: a subset"),
        ({"questions": 9, "repeats": 2}, "its first 9 questions: a subset, 2 answers to each"),
        ({"holdout": 0.3}, "70% of its questions, the rest kept out: a subset"),
        (
            {"sample": 60, "holdout": 0.3},
            "70% of a random sample of 60 questions, the rest kept out: a subset",
        ),
        (
            {"questions": 9, "holdout": 0.25},
            "75% of its first 9 questions, the rest kept out: a subset",
        ),
    ],
)
def test_which_questions_were_asked(keys: dict[str, Any], text: str) -> None:
    benchmark = BenchmarkSection(name="sums", adapter="sums", path="p", **keys)
    assert questions_in_words(benchmark) == text
