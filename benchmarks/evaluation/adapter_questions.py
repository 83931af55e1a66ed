"""The same questions and answers as a benchmark of each kind of adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from apbmm_common.datasets.benchmark_folders.selection import places_of
from apbmm_common.run_file import BenchmarkSection
from apbmm_common.run_file.sections.benchmarks import ANSWER_ADAPTER, EXACT_ADAPTER, is_own_adapter

LETTERS = "ABCDEFGHIJ"
Row = Callable[[int, str, str], dict[str, Any]]


def _own_row(number: int, text: str, answer: str) -> dict[str, Any]:
    return {"id": str(number), "question": text, "answer": answer}


ROWS: dict[str, Row] = {
    EXACT_ADAPTER: _own_row,
    "aime25": lambda _, text, answer: {"problem": text, "answer": answer},
    "gsm8k": lambda _, text, answer: {"question": text, "answer": f"add #### {answer}"},
    "math_500": lambda n, text, answer: {
        "problem": text,
        "solution": "add",
        "answer": answer,
        "level": 1,
        "unique_id": f"algebra/{n}.json",
    },
    "general_mcq": lambda n, text, answer: {
        "id": str(n),
        "question": text,
        **{letter: f"{place} or {letter}" for place, letter in enumerate(LETTERS)},
        "answer": answer if answer in LETTERS else LETTERS[int(answer) % len(LETTERS)],
    },
    ANSWER_ADAPTER: _own_row,
}
"""A row of the data file, from a question's number, its text and its answer: a whole number, or a
letter for `general_mcq`."""
ARGUMENTS: dict[str, dict[str, Any]] = {
    "gsm8k": {"few_shot_num": 0},
    # The rest after the marker of the demo pair's answers, or a box at the end of a line.
    ANSWER_ADAPTER: {"regex": r"(?:# ?|\\boxed\{)(.*?)\}?\.?$", "compare": "expression"},
}


def plain_prompt(adapter: str) -> dict[str, Any]:
    """Arguments that leave an adapter's own prompt away."""
    if is_own_adapter(adapter):
        return {}
    choices = "\n{choices}" if adapter == "general_mcq" else ""
    return {"prompt_template": "{question}" + choices}


def demo_problems(benchmark: BenchmarkSection) -> list[tuple[str, str]]:
    """Questions and answers of a benchmark of the demo pair."""
    (folder,) = places_of(benchmark)
    lines = (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["question"], row["answer"]) for row in map(json.loads, lines)]


def write_benchmark(
    adapter: str,
    name: str,
    problems: Iterable[tuple[str, str]],
    folder: Path,
    arguments: dict[str, Any] | None = None,
) -> BenchmarkSection:
    """A benchmark of these questions and answers, written to a new folder ``folder / name``."""
    path = folder / name
    path.mkdir(parents=True)
    row = ROWS.get(adapter, _own_row)
    rows = [row(n, *problem) for n, problem in enumerate(problems)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "test.jsonl").write_text(text, encoding="utf-8")
    return BenchmarkSection(
        name=name,
        adapter=adapter,
        path=str(path / "test.jsonl"),
        arguments={**ARGUMENTS.get(adapter, {}), **(arguments or {})},
    )
