"""Benchmark folders: what is refused, and which questions are asked."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.datasets.benchmark_folders import check_folder, choose_questions, chosen_positions
from apbmm_common.errors import SourceError
from apbmm_common.run_file import BenchmarkSection

ROWS = [{"id": f"q{n}", "question": f"{n}?", "answer": str(n)} for n in range(6)]


def benchmark(adapter: str = "apbmm_exact", **settings: Any) -> BenchmarkSection:
    return BenchmarkSection(name="b", adapter=adapter, path="/not/used", **settings)


def write_lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file.parent


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().split("\n") if line]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (0, 1, 2, 3, 4, 5)),
        ({"questions": 2}, (0, 1)),
        ({"question_ids": (4, 1)}, (4, 1)),
    ],
)
def test_questions_are_chosen_by_position(
    tmp_path: Path, settings: dict[str, Any], expected: tuple[int, ...]
) -> None:
    folder = write_lines(tmp_path / "data/test.jsonl", ROWS)
    chosen = choose_questions(benchmark(**settings), folder, tmp_path / "scratch")
    assert chosen.positions == expected
    assert read_lines(chosen.folder / "test.jsonl") == [ROWS[n] for n in expected]
    assert chosen.folder != folder


def test_an_earlier_choice_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "data/test.jsonl", ROWS)
    choose_questions(benchmark(), folder, tmp_path / "scratch")
    chosen = choose_questions(benchmark(questions=1), folder, tmp_path / "scratch")
    assert read_lines(chosen.folder / "test.jsonl") == ROWS[:1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"questions": 7}, "7 questions wanted, but its data holds 6"),
        ({"question_ids": (0, 6)}, r"names 6, but its data holds 6 questions \(0 to 5\)"),
    ],
)
def test_too_few_questions(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        chosen_positions(benchmark(**settings), 6)


def test_gpqa_is_read_from_csv_and_keeps_every_cell(tmp_path: Path) -> None:
    columns = ["Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))]
    text = 'a "quoted", question\nof two lines'
    # A line separator ends a line for str.splitlines, but no row of a table.
    rows = [[f"{text} {n}", "1\u2028", "2.50", "", "x"] for n in range(3)]
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    chosen = choose_questions(
        benchmark("gpqa_diamond", question_ids=(2,)), tmp_path, tmp_path / "scratch"
    )
    (record,) = read_lines(chosen.folder / "train.jsonl")
    assert list(record.values()) == rows[2]


def test_gsm8k_keeps_its_worked_examples(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": f"so #### {n}"} for n in range(5)]
    write_lines(tmp_path / "test.jsonl", rows)
    write_lines(tmp_path / "train.jsonl", rows[::-1])
    chosen = choose_questions(benchmark("gsm8k", questions=2), tmp_path, tmp_path / "scratch")
    assert read_lines(chosen.folder / "test.jsonl") == rows[:2]
    assert read_lines(chosen.folder / "train.jsonl") == rows[::-1]
    assert chosen.arguments == {"subset_list": ["default"]}


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a folder"):
        check_folder(benchmark(), tmp_path / "typo")
    with pytest.raises(SourceError, match="holds no data for apbmm_exact"):
        check_folder(benchmark(), tmp_path)
    write_lines(tmp_path / "test.jsonl", ROWS)
    (tmp_path / "test.csv").write_text("id,question,answer\n")
    with pytest.raises(SourceError, match="several files for the test split"):
        check_folder(benchmark(), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no questions"),
        ('{"id": 1}\n', "question 0 of .* has no 'question'"),
        ('{"id": 1, "question": "a", "answer": "b"}\n{"id"', "is damaged: line 2"),
        ("[1]\n", "is damaged: not a list of JSON objects"),
        ('{"id": 1, "question": "a", "answer": null}\n', "has no 'answer'"),
    ],
)
def test_damaged_data(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "test.jsonl").write_text(content)
    with pytest.raises(SourceError, match=message):
        choose_questions(benchmark(), tmp_path, tmp_path / "scratch")


def test_an_adapter_that_apbmm_does_not_know_is_given_its_folder(tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "somewhere/deep/data.jsonl", ROWS).parent
    chosen = choose_questions(benchmark("mmlu"), folder, tmp_path / "scratch")
    assert (chosen.folder, chosen.positions) == (folder, None)
    with pytest.raises(SourceError, match="not for mmlu"):
        check_folder(benchmark("mmlu", questions=3), folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no data"):
        check_folder(benchmark("mmlu"), tmp_path / "empty")
