"""Questions of one's own for EvalScope's general_qa and general_mcq."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.datasets.benchmark_folders.chosen_questions import choose_questions
from apbmm_common.datasets.benchmark_folders.selection import places_of, select_questions
from apbmm_common.errors import SourceError
from apbmm_common.run_file import BenchmarkSection

MCQ = {"question": "which?", "A": "one", "B": "two", "answer": "A"}
QA = {"question": "how many?", "answer": 2}


def write(file: Path, *rows: dict[str, Any]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def section(adapter: str, path: str | list[str], **more: Any) -> BenchmarkSection:
    return BenchmarkSection.model_validate(
        {"name": "mine", "adapter": adapter, "path": path, **more}
    )


def test_files_become_subsets_that_evalscope_finds(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "easy.jsonl", QA, QA | {"question": " "}),
        write(tmp_path / "hard ones_test.jsonl", QA),
    ]
    mine = section("general_qa", paths)
    chosen = choose_questions(mine, places_of(mine), tmp_path / "scratch")
    assert chosen.arguments == {"subset_list": ["easy", "hard_ones"]}
    assert sorted(file.name for file in chosen.folder.iterdir()) == [
        "easy_test.jsonl", "hard_ones_test.jsonl"
    ]  # fmt: skip
    written = json.loads((chosen.folder / "easy_test.jsonl").read_text())
    assert written == {"question": "how many?", "answer": "2"}
    assert chosen.rows == {
        "easy/0": f"{paths[0]}, line 1", "hard_ones/0": f"{paths[1]}, line 1"
    }  # fmt: skip
    (note,) = chosen.notes
    assert "1 of 3 rows are no questions" in note


def test_a_sample_has_each_subset_s_share(tmp_path: Path) -> None:
    rows = [QA | {"question": f"{n}?"} for n in range(6)]
    paths = [write(tmp_path / "a.jsonl", *rows), write(tmp_path / "b.jsonl", *rows[:3])]
    mine = section("general_qa", paths, sample=3)
    assert select_questions(mine, places_of(mine)).subsets == ("a", "a", "b")


def test_a_folder_has_the_subsets_that_the_arguments_name(tmp_path: Path) -> None:
    for name in ("law_val", "art", "more_val"):
        write(tmp_path / f"{name}.jsonl", MCQ)
    named = {"subset_list": ["art", "law"]}
    mine = section("general_mcq", str(tmp_path), arguments=named)
    assert select_questions(mine, tmp_path).subsets == ("art", "law")
    with pytest.raises(SourceError, match="holds no data of the subset history"):
        select_questions(
            section("general_mcq", str(tmp_path), arguments={"subset_list": ["history"]}), tmp_path
        )
    with pytest.raises(SourceError, match="holds 3 data files"):
        select_questions(section("general_mcq", str(tmp_path)), tmp_path)


def test_a_folder_with_one_file_or_the_default_subset_needs_no_names(tmp_path: Path) -> None:
    write(tmp_path / "one" / "questions.jsonl", MCQ)
    write(tmp_path / "one" / "questions_dev.jsonl", MCQ)
    write(tmp_path / "default" / "default_val.jsonl", MCQ)
    write(tmp_path / "default" / "others.jsonl", MCQ)
    for folder, subset in (("one", "questions"), ("default", "default")):
        found = select_questions(section("general_mcq", str(tmp_path / folder)), tmp_path / folder)
        assert found.subsets == (subset,)


@pytest.mark.parametrize(
    ("adapter", "row", "message"),
    [
        ("general_mcq", MCQ | {"answer": "C"}, "'C' is not among the choices A, B"),
        ("general_mcq", MCQ | {"answer": ["A", "B"]}, "multiple_correct = true"),
        ("general_mcq", {"question": "q", "A": "one", "answer": "A"}, "the choices are A:"),
        ("general_mcq", MCQ | {"D": "four"}, "the choices are A, B, D:"),
        ("general_qa", {"question": "q"}, "there is no 'answer'"),
        ("general_qa", {"messages": ["hello"], "answer": "1"}, "messages must be a list"),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_by_name(
    adapter: str, row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    mine = section(adapter, write(tmp_path / "mine.jsonl", row))
    with pytest.raises(SourceError, match=message) as refused:
        select_questions(mine, places_of(mine))
    assert "mine.jsonl, line 1: " in refused.value.message
