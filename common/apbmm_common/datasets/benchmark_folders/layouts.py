"""What each adapter reads: its splits and columns, and how the record of a row is completed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from apbmm_common.answer_rules import AnswerRule
from apbmm_common.datasets.benchmark_folders.general_adapters import (
    question_or_messages,
    question_with_choices,
)
from apbmm_common.datasets.benchmark_folders.math_adapters import (
    with_final_answer,
    with_level,
    with_solution,
    with_whole_number,
)
from apbmm_common.datasets.data_files import Record, Row
from apbmm_common.run_file import BenchmarkSection
from apbmm_common.run_file.sections.benchmarks import ANSWER_ADAPTER, is_own_adapter


@dataclass(frozen=True)
class Layout:
    """What an adapter reads.

    Attributes:
        split: the scored split.
        columns: its columns. A row with a blank cell in one of them is no question.
        optional: columns that may be missing; the copy has them empty.
        id: the column of ids, which the copy then always has, without duplicates.
        stratum: a column whose values a random sample holds in equal shares, where it is there.
        also: further splits, of worked examples, which are read if any are wanted.
        shots: how many worked examples the adapter takes by default.
        by_subset: whether each data file is a subset of its own.
        instead: columns that may stand in the place of a column.
        arguments: arguments of EvalScope that a local copy needs.
        complete: makes the record of a row what the adapter expects, or None of a row that is no
            question. Raises `ValueError` for what it could not use.
    """

    split: str
    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    id: str = ""
    stratum: str = ""
    also: tuple[str, ...] = ()
    shots: int = 0
    by_subset: bool = False
    instead: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    complete: Callable[[Record, Row], Record | None] = lambda record, _: record


LAYOUTS = {
    "aime24": Layout("test", ("problem",), ("answer", "solution"), complete=with_solution),
    "aime25": Layout("test", ("problem", "answer"), complete=with_whole_number),
    "aime26": Layout("test", ("problem", "answer"), complete=with_whole_number),
    "gpqa_diamond": Layout(
        "train",
        ("Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))),
        stratum="High-level domain",
    ),
    # Its subset is called "main" on the hub; a local folder has the default one only. The train
    # split holds its four worked examples.
    "gsm8k": Layout(
        "test",
        ("question", "answer"),
        also=("train",),
        shots=4,
        arguments={"subset_list": ["default"]},
        complete=with_final_answer,
    ),
    "math_500": Layout(
        "test",
        ("problem", "answer", "level"),
        ("solution",),
        id="unique_id",
        stratum="level",
        complete=with_level,
    ),
    "general_qa": Layout(
        "test",
        ("answer",),
        by_subset=True,
        instead={"answer": ("response",)},
        complete=question_or_messages,
    ),
    "general_mcq": Layout(
        "val",
        ("question",),
        also=("dev",),
        by_subset=True,
        complete=partial(question_with_choices, several=False),
    ),
}
OWN_LAYOUT = Layout("test", ("question", "answer"), id="id", stratum="subset")


def layout_of(adapter: str) -> Layout | None:
    """The layout of an adapter's files, or None if apbmm does not know it."""
    return OWN_LAYOUT if is_own_adapter(adapter) else LAYOUTS.get(adapter)


def layout_with_arguments(benchmark: BenchmarkSection) -> Layout | None:
    """The layout of a benchmark's files, with the columns that its arguments name.

    None if apbmm does not know its adapter.
    """
    if benchmark.adapter == "general_mcq":
        extra = benchmark.arguments.get("extra_params")
        several = isinstance(extra, Mapping) and bool(extra.get("multiple_correct"))
        return replace(
            LAYOUTS["general_mcq"], complete=partial(question_with_choices, several=several)
        )
    if benchmark.adapter != ANSWER_ADAPTER:
        return layout_of(benchmark.adapter)
    rule = AnswerRule.of(benchmark.arguments)

    def complete(record: Record, row: Row) -> Record:
        cells = {column: row.text(column) or "" for column in rule.columns_asked(row.values)}
        try:
            target = rule.target(record[rule.answer])
        except ValueError as error:
            raise ValueError(f"the answer {record[rule.answer]!r} {error}") from None
        return {
            "id": record[rule.id],
            "question": rule.asked(cells),
            "answer": target,
            "rule": dict(benchmark.arguments),
        }

    return Layout("test", (rule.question, rule.answer), (), rule.id, rule.subset, complete=complete)
