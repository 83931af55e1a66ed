"""The adapter that `apbmm init` guesses from columns and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apbmm.init.benchmarks import ColumnsError, guess, without_box
from apbmm_common.errors import UsageError

GPQA = {"Question": "Which?", "Correct Answer": "a", "High-level domain": "Physics"}
GPQA |= {f"Incorrect Answer {number}": f"b{number}" for number in (1, 2, 3)}
GSM8K = {"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}


def written(file: Path, *rows: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("file", "row", "adapter"),
    [
        ("aime25/test.jsonl", {"problem": "p", "answer": "70"}, "aime25"),
        ("aime24/train.jsonl", {"problem": "p", "solution": "70"}, "aime24"),
        ("gpqa/train.jsonl", GPQA, "gpqa_diamond"),
        ("math/test.jsonl", {"problem": "p", "answer": "\\frac12", "level": 3}, "math_500"),
        ("gsm8k/test.jsonl", GSM8K, "gsm8k"),
        ("quiz/a.jsonl", {"question": "q", "A": "x", "B": "y", "answer": "B"}, "general_mcq"),
    ],
)
def test_known_columns(tmp_path: Path, file: str, row: dict[str, Any], adapter: str) -> None:
    found = guess(str(written(tmp_path / file, row, row).parent))
    assert (found.adapter, found.questions) == (adapter, 2)
    assert found.longest >= len("p")


def test_worked_examples_are_taken_where_there_are_some(tmp_path: Path) -> None:
    written(tmp_path / "test.jsonl", GSM8K)
    assert guess(str(tmp_path)).arguments == {"few_shot_num": 0}
    written(tmp_path / "train.jsonl", *[GSM8K] * 4)
    assert guess(str(tmp_path)).arguments == {}


@pytest.mark.parametrize(
    ("answers", "rule"),
    [
        (["42", "1,000", "3.5"], {"extract": "boxed", "compare": "number"}),
        (["A", "C"], {"extract": "letter"}),
        (["\\frac{1}{2}", "x^2"], {"extract": "boxed"}),
        (["Paris", "Rome"], {"extract": "boxed", "compare": "text"}),
    ],
)
def test_questions_of_ones_own(tmp_path: Path, answers: list[str], rule: dict[str, str]) -> None:
    rows = [{"question": f"q{answer}", "answer": answer} for answer in answers]
    found = guess(str(written(tmp_path / "mine.jsonl", *rows)))
    assert found.adapter == "apbmm_answer"
    template = found.arguments.get("template", "")
    assert {k: v for k, v in found.arguments.items() if k != "template"} == rule
    assert ("\\boxed{}" in template) == (rule["extract"] == "boxed")


def test_columns_of_other_names(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.jsonl", {"prompt": "q", "target": "Paris"})
    found = guess(str(file))
    assert found.arguments["question"] == "prompt"
    assert found.arguments["answer"] == "target"


def test_columns_that_are_not_known_are_told_apart(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.jsonl", {"task": "q", "answer": "7", "steps": "s"})
    with pytest.raises(ColumnsError) as caught:
        guess(str(file))
    assert caught.value.columns == ("task", "answer", "steps")
    assert caught.value.missing == ["question"]
    assert guess(str(file), question="task").arguments["question"] == "task"


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ("42", {"extract": "last_number", "compare": "number"}),
        ("x^2", {"extract": "exact", "compare": "expression"}),
        ("Paris", {"extract": "exact", "compare": "text"}),
    ],
)
def test_without_the_words_for_a_box_none_is_looked_for(
    tmp_path: Path, answer: str, rule: dict[str, str]
) -> None:
    file = written(tmp_path / "mine.jsonl", {"prompt": "q", "answer": answer})
    found = without_box(guess(str(file)))
    assert found.arguments == {"question": "prompt", **rule, "template": "{question}"}
    assert "does not know the words" in found.comment


def test_a_benchmark_without_a_box_stays_as_it_is(tmp_path: Path) -> None:
    found = guess(str(written(tmp_path / "mine.jsonl", {"question": "q", "answer": "B"})))
    assert without_box(found) == found


def test_an_adapter_that_is_named_is_taken(tmp_path: Path) -> None:
    file = written(tmp_path / "test.jsonl", {"question": "q", "answer": "a b c"})
    assert guess(f"general_qa={file}").adapter == "general_qa"


def test_rows_that_do_not_fit_the_adapter_that_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "test.jsonl", {"question": "q", "answer": "a"})
    with pytest.raises(UsageError) as caught:
        guess(f"aime25={file}")
    assert caught.value.message.startswith(str(file))  # and not "benchmark guess"


@pytest.mark.slow
def test_an_adapter_that_evalscope_does_not_have(tmp_path: Path) -> None:
    pytest.importorskip("evalscope")
    file = written(tmp_path / "test.jsonl", {"question": "q", "answer": "a"})
    with pytest.raises(UsageError, match="no benchmark 'aime99', aime26 is one"):
        guess(f"aime99={file}")


@pytest.mark.parametrize(
    ("row", "said", "hint"),
    [
        ({"text": "q"}, "there is no 'question', only text", "ADAPTER=PATH"),
        ({"question": "q", "answer": True}, "'answer' is bool", "write it as text or a number"),
    ],
)
def test_what_no_adapter_reads(tmp_path: Path, row: dict[str, Any], said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        guess(str(written(tmp_path / "mine.jsonl", row)))
    assert hint in caught.value.hint


def test_a_file_without_questions_has_no_hint_that_names_columns(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no questions") as caught:
        guess(str(written(tmp_path / "mine.jsonl", {})))
    assert caught.value.hint == ""


@pytest.mark.parametrize(
    ("names", "answer", "said"),
    [
        (("question", "answer"), "0", "the answer '0' is not among the choices A, B"),
        (("Question", "Answer"), "A", "there is no 'question'"),
    ],
)
def test_choices_are_not_left_out_unsaid(
    tmp_path: Path, names: tuple[str, str], answer: str, said: str
) -> None:
    file = written(tmp_path / "mine.jsonl", {names[0]: "q", "A": "x", "B": "y", names[1]: answer})
    with pytest.raises(UsageError, match=r"choices A, B, \.\.\. would not be asked") as caught:
        guess(str(file))
    assert said in caught.value.message
    assert guess(f"apbmm_answer={file}").adapter == "apbmm_answer"


def test_columns_are_not_named_for_an_adapter_of_evalscope(tmp_path: Path) -> None:
    file = written(tmp_path / "test.jsonl", {"question": "q", "answer": "a"})
    with pytest.raises(UsageError, match="for apbmm_answer, not for general_qa"):
        guess(f"general_qa={file}", question="question")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder or file"):
        guess(str(tmp_path / "none"))


def test_names_are_those_of_folders_and_each_once(tmp_path: Path) -> None:
    found = guess(str(written(tmp_path / "my data.jsonl", GSM8K)))
    assert found.named(set()) == "my-data"
    assert found.named({"my-data"}) == "my-data-2"
    reserved = guess(str(written(tmp_path / "prompts.jsonl", GSM8K)))
    assert reserved.named(set()) == "prompts-2"
