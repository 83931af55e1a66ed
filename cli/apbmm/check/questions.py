"""What `apbmm check` says of a benchmark's questions: the first of them, and what may surprise."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from apbmm.questions.messages import RenderedBenchmark
from apbmm_common.datasets.benchmark_folders import places_of, select_questions
from apbmm_common.errors import SourceError
from apbmm_common.run_file import BenchmarkSection

QUESTION_COLUMNS = ("problem", "question", "Question")
TARGET_COLUMNS = ("answer", "Correct Answer")
"""What the adapters whose files apbmm knows call a question and its right answer."""
FEWEST_ROWS = 8
"""Fewer rows are easily in an order by chance."""
MOST_CLASSES = 50


@dataclass(frozen=True)
class FirstQuestion:
    """A benchmark's first question and its target, as its data has them."""

    question: str
    target: str


def first_question(records: Sequence[Mapping[str, Any]]) -> FirstQuestion | None:
    """The first of the records that are asked; None without any."""
    if not records:
        return None
    return FirstQuestion(_value(records[0], QUESTION_COLUMNS), _value(records[0], TARGET_COLUMNS))


def _value(record: Mapping[str, Any], columns: Sequence[str]) -> str:
    return next((str(record[column]) for column in columns if column in record), "")


def order_note(benchmark: BenchmarkSection) -> str:
    """What ``questions``, which takes the first rows, leaves out of ordered data; empty if nothing.

    Data is ordered by a column where the rows of each of its values stand together.
    """
    questions = benchmark.questions
    if questions is None:
        return ""
    everything = benchmark.model_copy(update={"questions": None})
    try:
        records = select_questions(everything, places_of(benchmark)).records
    except SourceError:  # rows that are not asked may be damaged
        return ""
    if len(records) < max(FEWEST_ROWS, questions + 1):
        return ""
    for column in records[0]:
        values = [str(record.get(column)) for record in records]
        classes = list(dict.fromkeys(values))
        runs = 1 + sum(before != after for before, after in pairwise(values))
        few_enough = 1 < len(classes) <= min(MOST_CLASSES, len(records) // 2)
        if column in TARGET_COLUMNS or not few_enough or runs > len(classes):
            continue
        left_out = [value for value in classes if value not in values[:questions]]
        if left_out:
            return (
                f"questions = {questions} takes the first of {len(records)}, but the data is "
                f"ordered by {column}, so that {len(left_out)} of its {len(classes)} values are "
                f"never asked ({left_out[0]!r}, say): sample = {questions} draws from all"
            )
    return ""


def rendered_notes(benchmark: RenderedBenchmark, raw: FirstQuestion | None) -> list[str]:
    """What may surprise in a benchmark as EvalScope reads it."""
    notes = [_unknown(name) for name in benchmark.unknown_arguments]
    asked = benchmark.first[0].asked
    if raw is not None and raw.question and asked.strip() != raw.question.strip():
        before, found, after = asked.partition(raw.question.strip())
        if found:
            sides = [("before it", before.strip()), ("after it", after.strip())]
            added = " and ".join(f"{where} {_ends(text)!r}" for where, text in sides if text)
            notes.append(f"the adapter puts a prompt of its own around each question: {added}")
        else:
            notes.append("the adapter changes the questions: the model sees other text")
    return notes


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, COMMON_ARGUMENTS, n=1)
    instead = f", {close[0]} is one" if close else ""
    return f"arguments.{name}: EvalScope does not know it and ignores it{instead}"


COMMON_ARGUMENTS = (
    "aggregation",
    "extra_params",
    "few_shot_num",
    "few_shot_prompt_template",
    "few_shot_random",
    "filters",
    "metric_list",
    "prompt_template",
    "query_template",
    "shuffle",
    "shuffle_choices",
    "subset_list",
    "system_prompt",
)
"""The arguments of EvalScope's adapters that a user may mean."""


def _ends(text: str, most: int = 120) -> str:
    """A text with its middle left out."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
