"""A benchmark's data: what is read, left out and refused, and which questions are asked."""

from __future__ import annotations

import codecs
import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.datasets.benchmark_folders.chosen_questions import choose_questions
from apbmm_common.datasets.benchmark_folders.selection import select_questions
from apbmm_common.errors import SourceError
from apbmm_common.run_file import BenchmarkSection

ROWS = [{"id": f"q{n}", "question": f"{n}?", "answer": str(n)} for n in range(6)]
GPQA = ["Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))]


def benchmark(adapter: str = "apbmm_exact", **settings: Any) -> BenchmarkSection:
    return BenchmarkSection(name="b", adapter=adapter, path="/not/used", **settings)


def write_lines(file: Path, rows: list[dict[str, Any]], mark: bytes = b"") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(mark + "".join(json.dumps(row) + "\n" for row in rows).encode())
    return file.parent


def write_csv(file: Path, rows: list[list[str]], **how: Any) -> Path:
    with file.open("w", newline="", encoding="utf-8-sig") as opened:
        csv.writer(opened, **how).writerows(rows)
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
    assert read_lines(chosen.folder / "test.jsonl") == [
        {"question": ROWS[n]["question"], "answer": ROWS[n]["answer"], "id": ROWS[n]["id"]}
        for n in expected
    ]
    assert chosen.folder != folder
    assert chosen.notes == ()


def test_an_earlier_choice_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "data/test.jsonl", ROWS)
    choose_questions(benchmark(), folder, tmp_path / "scratch")
    chosen = choose_questions(benchmark(questions=1), folder, tmp_path / "scratch")
    assert read_lines(chosen.folder / "test.jsonl") == ROWS[:1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"questions": 7}, "7 questions wanted, but its data holds 6"),
        ({"sample": 7}, "7 questions wanted, but its data holds 6"),
        ({"question_ids": (0, 6)}, r"names 6, but its data holds 6 questions \(0 to 5\)"),
    ],
)
def test_too_few_questions(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    folder = write_lines(tmp_path / "test.jsonl", ROWS)
    with pytest.raises(SourceError, match=message):
        select_questions(benchmark(**settings), folder)


# ---- rows that are no questions, and values that are not as expected -----------------------------


TABLES: dict[str, tuple[str, list[dict[str, Any]], list[str]]] = {
    "aime24": ("test", [{"problem": "p", "solution": r"\boxed{204}"}], [r"\boxed{204}"]),
    "aime25": (
        "test",
        [
            {"problem": "p", "answer": 2},
            {"problem": "p2", "answer": r"336^\circ"},
            {"problem": "p3", "answer": "1,024"},
        ],
        ["2", "336", "1,024"],
    ),
    "aime26": ("test", [{"problem": "p", "answer": "$33^{\\circ}$"}], ["33"]),
    "gpqa_diamond": (
        "train",
        [dict(zip(GPQA, ["q", 1, 2, 3.5, "x"], strict=True))],
        ["1"],
    ),
    "gsm8k": (
        "test",
        [{"question": "q", "answer": 18}, {"question": "q", "answer": "so\n#### 1,000"}],
        ["18", "so\n#### 1,000"],
    ),
    "math_500": (
        "test",
        [
            {"problem": "p", "solution": "s", "answer": 3, "level": "Level 3", "unique_id": "a"},
            {"problem": "p", "answer": "3", "level": 5, "unique_id": "a"},
        ],
        ["3", "3"],
    ),
    "apbmm_exact": (
        "test",
        [{"question": "q", "answer": 2.5, "id": 7}, ROWS[1], ROWS[1]],
        ["2.5", "1", "1"],
    ),
    "apbmm_demo_chain": ("test", [{"question": "q", "answer": 7}], ["7"]),
    "apbmm_answer": ("test", [{"question": "q", "answer": 7}, ROWS[0], ROWS[0]], ["7", "0", "0"]),
}  # fmt: skip
"""Of each adapter: its split, rows as people have them, and the answers that are scored."""


@pytest.mark.parametrize("adapter", TABLES)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_marks_blank_rows_numbers_and_repeated_ids(tmp_path: Path, adapter: str, kind: str) -> None:
    split, rows, answers = TABLES[adapter]
    columns = list({column: None for row in rows for column in row})
    blanks: list[dict[str, Any]] = [dict.fromkeys(columns, ""), dict.fromkeys(columns)]
    every = [*rows, *blanks]
    if kind == "jsonl":
        write_lines(tmp_path / f"{split}.jsonl", every, codecs.BOM_UTF8)
    elif kind == "csv":
        cells = [["" if row.get(c) is None else str(row[c]) for c in columns] for row in every]
        write_csv(tmp_path / f"{split}.csv", [columns, *cells, []])
    else:
        write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", every, columns)
    settings = {"gsm8k": {"few_shot_num": 0}, "apbmm_answer": {"extract": "last_number"}}
    chosen = choose_questions(
        benchmark(adapter, arguments=settings.get(adapter, {})), tmp_path, tmp_path / "scratch"
    )
    records = read_lines(chosen.folder / f"{split}.jsonl")
    column = "Correct Answer" if adapter == "gpqa_diamond" else "answer"
    assert [record[column] for record in records] == answers
    assert chosen.positions == tuple(range(len(rows)))
    assert f"2 of {len(rows) + 2} rows are no questions and are left out" in chosen.notes[0]
    ids = [record[key] for record in records for key in ("id", "unique_id") if key in record]
    assert len(set(ids)) == len(ids)
    own = [row[key] for row in rows for key in ("id", "unique_id") if key in row]
    if repeated := len(own) - len(set(own)):
        assert f"{repeated} rows have the id of an earlier row" in chosen.notes[1]


def write_parquet(file: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = {}
    for column in columns:
        values = [row.get(column) for row in rows]
        if any(isinstance(value, str) and value for value in values):
            values = [None if value is None else str(value) for value in values]
        else:  # a column of numbers with gaps, which is of floats
            values = [float(v) if isinstance(v, int | float) else None for v in values]
        table[column] = values
    pyarrow.parquet.write_table(pyarrow.table(table), file)


def test_whole_numbers_that_a_table_with_gaps_made_floats_have_no_point(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": 70.0}, {"question": "b", "answer": 0.5}]
    folder = write_lines(tmp_path / "test.jsonl", rows)
    assert [r["answer"] for r in select_questions(benchmark(), folder).records] == ["70", "0.5"]


def test_levels_are_numbers(tmp_path: Path) -> None:
    split, rows, _ = TABLES["math_500"]
    folder = write_lines(tmp_path / f"{split}.jsonl", rows)
    records = select_questions(benchmark("math_500"), folder).records
    assert [(r["level"], r["unique_id"]) for r in records] == [(3, "a"), (5, "a#1")]


def test_blank_lines_of_a_spreadsheet_are_no_questions(tmp_path: Path) -> None:
    questions = [[f"question {n}", "right", "a", "b", "c"] for n in range(7)]
    folder = write_csv(
        tmp_path / "train.csv",
        [GPQA, *questions[:6], ["half", "right", "", "b", "c"], questions[6], *[[""] * 5] * 3],
    )
    found = select_questions(benchmark("gpqa_diamond"), folder)
    assert found.positions == (0, 1, 2, 3, 4, 5, 7)
    assert len(found.notes) == 1
    assert "4 of 11 rows are no questions" in found.notes[0]
    assert "train.csv, row 7 has a blank 'Incorrect Answer 1'" in found.notes[0]
    assert "row 9 is blank, row 10 is blank, and 1 more" in found.notes[0]
    assert select_questions(benchmark("gpqa_diamond", questions=7), folder).positions[-1:] == (7,)  # type: ignore[index]
    with pytest.raises(SourceError, match="question_ids names 6, but that row has a blank"):
        select_questions(benchmark("gpqa_diamond", question_ids=(6,)), folder)


def test_gpqa_is_read_from_csv_and_keeps_every_cell(tmp_path: Path) -> None:
    text = 'a "quoted", question\nof two lines'
    # A line separator ends a line for str.splitlines, but no row of a table.
    rows = [[f"{text} {n}", "1\u2028", "2.50", " y", "x"] for n in range(3)]
    write_csv(tmp_path / "train.csv", [GPQA, *rows])
    chosen = choose_questions(
        benchmark("gpqa_diamond", question_ids=(2,)), tmp_path, tmp_path / "scratch"
    )
    (record,) = read_lines(chosen.folder / "train.jsonl")
    assert list(record.values()) == rows[2]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_separators_of_other_spreadsheets(tmp_path: Path, separator: str) -> None:
    rows = [["question", "answer"], ["1, 2 and?", "3"]]
    write_csv(tmp_path / "test.csv", rows, delimiter=separator)
    (record,) = select_questions(benchmark(), tmp_path).records
    assert record == {"question": "1, 2 and?", "answer": "3", "id": "0"}


@pytest.mark.parametrize(
    ("adapter", "content", "message"),
    [
        ("apbmm_exact", b"", "holds no questions"),
        ("apbmm_exact", b'{"id": 1}\n', "test.jsonl, line 1: there is no 'question', only id"),
        ("apbmm_exact", b'{"question": "a", "answer": "b"}\n{"id"', "not valid JSONL: line 2"),
        ("apbmm_exact", b"[1]\n", r"line 1: \[1\] is not a JSON object"),
        ("apbmm_exact", b'{"question": "a", "answer": null}\n',
         "holds no questions; 1 of 1 rows .* line 1 has a blank 'answer'"),
        ("apbmm_exact", b'{"question": "a", "answer": ["b"]}\n', "line 1: 'answer' is list"),
        ("apbmm_exact", b'{"question": "a", "answer": true}\n', "line 1: 'answer' is bool"),
        ("apbmm_exact", b'{"question": "a\\ud835", "answer": "b"}\n',
         r"line 1: 'question' holds half a character \(\\ud835\)"),
        ("apbmm_exact", b'{"question": "\xe4"}\n', "not UTF-8 text"),
        ("apbmm_exact", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
         "a Git LFS pointer, in place of the file .*git lfs pull"),
        ("aime25", b'{"problem": "a", "answer": "x+1"}\n', "line 1: the answer 'x.1' is not a wh"),
        ("aime24", b'{"problem": "a"}\n', "line 1: there is neither an answer nor a solution"),
        ("gsm8k", b'{"question": "a", "answer": "so it is"}\n', "does not end with ####"),
        ("math_500", b'{"problem": "a", "answer": "1", "level": "Level ?"}\n',
         "line 1: the level is 'Level .'; there are levels 1 to 5"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_with_file_and_row(
    tmp_path: Path, adapter: str, content: bytes, message: str
) -> None:
    (tmp_path / "test.jsonl").write_bytes(content)
    with pytest.raises(SourceError) as caught:
        select_questions(benchmark(adapter), tmp_path)
    assert caught.match(message)
    assert str(caught.value).startswith("benchmark b: ")


def test_a_cell_too_many_is_not_dropped(tmp_path: Path) -> None:
    write_csv(tmp_path / "test.csv", [["question", "answer"], ["a", "b"], ["c", "1", "2"]])
    with pytest.raises(SourceError, match=r"test.csv, row 2: 3 cells, but 2 columns"):
        select_questions(benchmark(), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('question,answer\nq,1\n"a" b,2\n', "test.csv: not valid CSV: row 2: ',' expected"),
        ("question,answer,answer\nq,1,2\n", "test.csv: two columns are called 'answer'"),
    ],
)
def test_a_csv_that_cannot_be_read_one_way(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "test.csv").write_text(content)
    with pytest.raises(SourceError, match=message):
        select_questions(benchmark(), tmp_path)


@pytest.mark.parametrize("line", ["sep=;\r\n", '"sep=;"\n', ""])
def test_the_separator_that_a_spreadsheet_states_counts(tmp_path: Path, line: str) -> None:
    (tmp_path / "test.csv").write_text(line + "question;answer\na,b;1\n")
    (record,) = select_questions(benchmark(), tmp_path).records
    assert (record["question"], record["answer"]) == ("a,b", "1")


def test_text_that_nobody_sees_is_blank(tmp_path: Path) -> None:
    rows = [{"question": text, "answer": "1"} for text in ("\u200b", "\ufeff ", "a\u200b")]
    write_lines(tmp_path / "test.jsonl", rows)
    assert select_questions(benchmark(), tmp_path).positions == (2,)


@pytest.mark.parametrize(
    ("adapter", "written", "asked"),
    [
        ("aime25", r"\text{12}", "12"),
        ("aime25", "\uff11\uff12", "12"),
        ("gsm8k", "so #### 12.", "so #### 12"),
        ("math_500", "12.", "12"),
        ("math_500", "0.333...", "0.333..."),
    ],
)
def test_targets_that_evalscope_would_not_read(
    tmp_path: Path, adapter: str, written: str, asked: str
) -> None:
    row = {"problem": "p", "question": "p", "answer": written, "level": 1}
    write_lines(tmp_path / "test.jsonl", [row])
    arguments = {"few_shot_num": 0}
    (record,) = select_questions(benchmark(adapter, arguments=arguments), tmp_path).records
    assert record["answer"] == asked


def test_a_right_choice_that_stands_there_twice_is_told(tmp_path: Path) -> None:
    """The order of choices is drawn: one of two equal letters scores 0."""
    rows = [["q", "a", "b", "c", "d"], ["q", "a", "b", "c", "a "]]
    folder = write_csv(tmp_path / "gpqa.csv", [GPQA, *rows])
    (note,) = select_questions(benchmark("gpqa_diamond"), folder).notes
    assert note.startswith("1 questions have the right choice twice")
    assert note.endswith("gpqa.csv, row 2")
    choices = [{"question": "q", "A": "x", "B": second, "answer": "A"} for second in "xy"]
    (tmp_path / "mcq").mkdir()
    folder = write_lines(tmp_path / "mcq/test_val.jsonl", choices)
    (note,) = select_questions(benchmark("general_mcq"), folder).notes
    assert note.endswith("test_val.jsonl, line 1")


# ---- files ---------------------------------------------------------------------------------------


def test_gsm8k_keeps_its_worked_examples(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": f"so #### {n}"} for n in range(5)]
    write_lines(tmp_path / "test.jsonl", rows)
    with pytest.raises(SourceError, match=r"no train split.*few_shot_num = 0"):
        select_questions(benchmark("gsm8k"), tmp_path)
    assert select_questions(benchmark("gsm8k", arguments={"few_shot_num": 0}), tmp_path).records
    write_lines(tmp_path / "train.jsonl", rows[::-1])
    chosen = choose_questions(benchmark("gsm8k", questions=2), tmp_path, tmp_path / "scratch")
    assert read_lines(chosen.folder / "test.jsonl") == rows[:2]
    assert read_lines(chosen.folder / "train.jsonl") == rows[::-1]
    assert chosen.arguments == {"subset_list": ["default"]}


def test_files_may_have_any_name(tmp_path: Path) -> None:
    problems = [{"problem": f"p{n}", "answer": n} for n in range(4)]
    folder = write_lines(tmp_path / "aime2025-I.jsonl", problems[:2])
    assert select_questions(benchmark("aime25"), folder).positions == (0, 1)
    write_lines(tmp_path / "aime2025-II.jsonl", problems[2:])
    with pytest.raises(SourceError, match=r"holds 2 data files .*name a file in path, or a list"):
        select_questions(benchmark("aime25"), folder)
    files = (folder / "aime2025-II.jsonl", folder / "aime2025-I.jsonl")
    assert [r["problem"] for r in select_questions(benchmark("aime25"), files).records] == [
        "p2", "p3", "p0", "p1",
    ]  # fmt: skip
    assert len(select_questions(benchmark("aime25"), files[0]).records) == 2


def test_what_lies_beside_the_one_file_does_not_count(tmp_path: Path) -> None:
    write_lines(tmp_path / "MINE.JSONL", ROWS)
    for name in ("._MINE.JSONL", "dataset_info.json", "state.json"):
        (tmp_path / name).write_bytes(b"\0")
    assert len(select_questions(benchmark(), tmp_path).records) == len(ROWS)
    assert len(select_questions(benchmark(), tmp_path / "MINE.JSONL").records) == len(ROWS)


def test_a_folder_without_data_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl.gz").write_bytes(b"")
    with pytest.raises(SourceError, match=r"that is asked; in it is test.jsonl.gz .*expected test"):
        select_questions(benchmark(), tmp_path)


def test_numbered_files_are_one_table(tmp_path: Path) -> None:
    for part in range(2):
        name = f"test-{part:05}-of-00002.parquet"
        rows = [{"problem": f"p{part}", "answer": part}]
        write_parquet(tmp_path / name, rows, ["problem", "answer"])
    assert [r["problem"] for r in select_questions(benchmark("aime25"), tmp_path).records] == [
        "p0",
        "p1",
    ]
    (tmp_path / "test-00000-of-00002.parquet").unlink()
    with pytest.raises(SourceError, match="holds 1 of 2 files of one table"):
        select_questions(benchmark("aime25"), tmp_path)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a folder or file that exists"):
        select_questions(benchmark(), tmp_path / "typo")
    with pytest.raises(SourceError, match="holds no data of the split"):
        select_questions(benchmark(), tmp_path)
    write_lines(tmp_path / "test.jsonl", ROWS)
    (tmp_path / "test.csv").write_text("id,question,answer\n")
    with pytest.raises(SourceError, match="several files for the test split"):
        select_questions(benchmark(), tmp_path)


def test_an_adapter_that_apbmm_does_not_know_is_given_its_folder(tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "somewhere/deep/data.jsonl", ROWS).parent
    chosen = choose_questions(benchmark("mmlu"), folder, tmp_path / "scratch")
    assert (chosen.folder, chosen.positions) == (folder, None)
    with pytest.raises(SourceError, match="not for mmlu"):
        select_questions(benchmark("mmlu", sample=3), folder)
    assert select_questions(benchmark("mmlu", questions=3), folder).positions is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no data"):
        select_questions(benchmark("mmlu"), tmp_path / "empty")


# ---- samples -------------------------------------------------------------------------------------


def test_a_sample_does_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = [{"problem": f"p{n}", "answer": n, "level": n // 20 + 1} for n in range(100)]
    found = []
    for order in range(2):
        folder = write_lines(tmp_path / f"{order}/test.jsonl", rows)
        found.append(select_questions(benchmark("math_500", sample=10), folder).records)
        random.Random(1).shuffle(rows)
    asked = [{r["problem"] for r in records} for records in found]
    assert asked[0] == asked[1]
    assert Counter(r["level"] for r in found[0]) == dict.fromkeys(range(1, 6), 2)
    other = select_questions(benchmark("math_500", sample=10), folder, seed=1).records
    assert {r["problem"] for r in other} != asked[0]


@pytest.mark.parametrize("choice", [{}, {"sample": 50}, {"questions": 60}])
def test_a_search_and_its_confirmation_share_no_question(
    tmp_path: Path, choice: dict[str, int]
) -> None:
    rows = [{"problem": f"p{n}", "answer": n, "level": n // 20 + 1} for n in range(100)]
    folder = write_lines(tmp_path / "test.jsonl", rows)
    whole = select_questions(benchmark("math_500", **choice), folder).positions
    searched, held_out = (
        select_questions(benchmark("math_500", holdout=0.3, held_out=part, **choice), folder)
        for part in (False, True)
    )
    assert searched.positions
    assert held_out.positions
    assert whole
    assert not set(searched.positions) & set(held_out.positions)
    assert sorted((*searched.positions, *held_out.positions)) == list(whole)
    assert len(held_out.positions) == round(0.3 * len(whole))
    levels = Counter(record["level"] for record in held_out.records)
    assert max(levels.values()) - min(levels.values()) <= 1
    other = select_questions(
        benchmark("math_500", holdout=0.3, held_out=True, **choice), folder, seed=1
    )
    assert other.positions != held_out.positions


def test_a_holdout_that_cannot_be_is_refused(tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "test.jsonl", ROWS)
    with pytest.raises(SourceError, match=r"keeps 0 of 6 questions out of the search"):
        select_questions(benchmark(holdout=0.05), folder)
    with pytest.raises(SourceError, match="not for mmlu"):
        select_questions(benchmark("mmlu", holdout=0.3), folder)


@pytest.mark.parametrize(
    "answer",
    [r"336^\circ", r"336^{\circ}", r"$336^\circ$", "336\u00b0", r"\boxed{336^\circ}"],
)  # fmt: skip
def test_degrees_of_aime_are_whole_numbers(tmp_path: Path, answer: str) -> None:
    folder = write_lines(tmp_path / "test.jsonl", [{"problem": "p", "answer": answer}])
    assert select_questions(benchmark("aime25"), folder).records[0]["answer"] == "336"
