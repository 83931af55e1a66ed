"""`apbmm try` without an engine: wrong options, EvalScope's records, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apbmm.questions.messages import RenderedQuestion
from apbmm.try_run import command
from apbmm.try_run.evaluation import with_few_questions
from apbmm.try_run.records import tried_questions
from apbmm.try_run.view import MOST_CHARACTERS, TriedBenchmark, as_json, report, shortened
from apbmm_common.datasets.benchmark_folders.selection import places_of, select_questions
from apbmm_common.errors import ApbmmError, UsageError
from apbmm_common.protocol.messages import BenchmarkResult
from commands import called, write_rehearsal
from rehearsal_runs import run_spec

ADAPTER = "gsm8k"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--source", "base"], "error: --source base: no source of "),
        (["--questions", "0"], "error: invalid value"),
        (["--gpu", "first"], "error: --gpu first: not a card"),
        (["--gpu", "rehearsal"], "error: --gpu rehearsal: nothing is asked in a rehearsal"),
        ([], " is a rehearsal, which asks no model anything"),
    ],
)
def test_what_cannot_be_asked_is_one_line_with_a_hint(
    options: list[str], told: str, tmp_path: Path
) -> None:
    shown = called("try", write_rehearsal(tmp_path / "run.toml"), *options)
    assert shown.returncode == 2
    error, hint = shown.stderr.splitlines()
    assert told in error
    assert hint.startswith("hint: ")
    assert shown.stdout == ""


def test_the_faults_of_a_run_file_are_those_that_check_names(tmp_path: Path) -> None:
    file = write_rehearsal(tmp_path / "run.toml")
    file.write_text(file.read_text().replace('kind = "rehearsal"', 'kind = "vllm"'))
    tried, checked = (called(command, file) for command in ("try", "check"))
    assert (tried.returncode, tried.stderr) == (2, checked.stderr)
    assert "sources.thinking" in tried.stderr


def test_each_question_is_tried_once(tmp_path: Path) -> None:
    rows = [{"id": f"q{n}", "question": f"{n}?", "answer": "x"} for n in range(4)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    benchmarks = [
        {"name": "own", "adapter": "apbmm_exact", "path": str(tmp_path), "repeats": 8},
        {"name": "other", "adapter": "mmlu", "path": str(tmp_path), "repeats": 8},
    ]
    spec = run_spec(benchmarks=benchmarks, generation={"temperature": 0.6})
    few = with_few_questions(spec, 2)
    assert [(b.repeats, b.question_ids, b.questions) for b in few.benchmarks] == [
        (1, (0, 1), None), (1, None, 2)
    ]  # fmt: skip


def test_what_is_kept_for_a_confirmation_does_not_lessen_the_questions(tmp_path: Path) -> None:
    rows = [{"id": f"q{n}", "question": f"{n}?", "answer": "x"} for n in range(20)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    own = {"name": "own", "adapter": "apbmm_exact", "path": str(tmp_path), "holdout": 0.5}
    (some,) = with_few_questions(run_spec(benchmarks=[own]), 8).benchmarks
    asked = select_questions(some, places_of(some)).positions
    assert asked is not None
    assert len(asked) == 8


def row(name: str, index: int, **more: Any) -> str:
    return json.dumps({"index": index, "model": name, **more}) + "\n"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """EvalScope's records of two questions in two subsets, in the form of its files."""
    for kind in ("predictions", "reviews"):
        (tmp_path / kind / "merge").mkdir(parents=True)
    rows: tuple[tuple[str, str, str, dict[str, Any], str | None], ...] = (
        ("easy", "It is \\boxed{4}", "stop", {"value": {"acc": 1.0}}, "4"),
        (
            "hard_one",
            "and so on",
            "max_tokens",
            {
                "value": {"f1": 0.25, "accuracy": 0.0},
                "main_score_name": "accuracy",
                "metadata": {"well_formed": False},
            },
            None,
        ),
    )
    for subset, answer, reason, score, extracted in rows:
        file = f"{ADAPTER}_{subset}.jsonl"
        choice = {"message": {"content": answer}, "stop_reason": reason}
        output = {"choices": [choice], "usage": {"output_tokens": 7}}
        (tmp_path / "predictions" / "merge" / file).write_text(row("m", 0, model_output=output))
        scored = {"extracted_prediction": extracted, **score}
        review = {"target": ["4"], "sample_score": {"score": scored}}
        (tmp_path / "reviews" / "merge" / file).write_text(row("m", 0, **review))
    return tmp_path


def asked(subset: str, index: int = 0) -> RenderedQuestion:
    return RenderedQuestion(
        question=f"{subset}/{index}",
        subset=subset,
        index=index,
        prompt="<|user|>2 + 2?<|assistant|>",
        tokens=9,
        asked="2 + 2?",
        target="4",
    )


def test_records_are_read_by_subset_and_place(records: Path) -> None:
    tried = tried_questions(records, ADAPTER, [asked("hard_one"), asked("easy")])
    hard, easy = (question.recorded for question in tried)
    assert (easy.answer, easy.extracted, easy.score) == ("It is \\boxed{4}", "4", 1.0)
    assert (easy.truncated, easy.well_formed, easy.scores) == (False, None, {"acc": 1.0})
    assert (hard.truncated, hard.well_formed, hard.extracted) == (True, False, "")
    assert (hard.score, hard.scores) == (0.0, {"f1": 0.25, "accuracy": 0.0})
    with pytest.raises(ApbmmError, match=r"records for gsm8k cannot be read: .*is missing"):
        tried_questions(records, ADAPTER, [asked("easy", 1)])


def test_everything_about_a_question_is_printed(records: Path) -> None:
    questions = tried_questions(records, ADAPTER, [asked("easy"), asked("hard_one")])
    result = BenchmarkResult(
        metrics={"accuracy": 0.5, "tokens": 7.0, "closed_thoughts": 0.25},
        questions=2, truncated=1, malformed=1,
    )  # fmt: skip
    benchmarks = [TriedBenchmark("sums", ADAPTER, questions, result)]
    lines = report("thinking", benchmarks)
    for line in (
        "==== sums, question easy/0",
        "---- prompt, 9 tokens",
        "<|user|>2 + 2?<|assistant|>",
        "---- answer, 7 tokens, ended by itself",
        "It is \\boxed{4}",
        "extracted  4",
        "target     4",
        "score      1",
        "---- answer, 7 tokens, cut off by max_tokens",
        "extracted  nothing (malformed)",
        "score      0, f1 0.25, accuracy 0",
    ):
        assert line in lines
    summary = "sums: thinking, accuracy 50.0%, 7.0 tokens, 1 of 2 truncated, 1 of 2 malformed"
    assert lines[-1] == f"{summary}, 25.0% thoughts closed"
    table = json.loads(json.dumps(as_json("trial", "thinking", benchmarks)))
    assert table["benchmarks"]["sums"]["metrics"] == result.metrics
    assert [q["answer"] for q in table["benchmarks"]["sums"]["questions"]] == [
        "It is \\boxed{4}",
        "and so on",
    ]


def test_vllm_is_needed_only_by_the_engine_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apbmm.installed.find_spec", lambda name: None if name == "vllm" else name)
    command.require_packages("stand-in")
    with pytest.raises(UsageError, match="but vllm is not installed"):
        command.require_packages("vllm")


def test_mostly_useless_answers_get_a_note(records: Path) -> None:
    (cut,) = tried_questions(records, ADAPTER, [asked("hard_one")])
    result = BenchmarkResult(metrics={"accuracy": 0.0, "tokens": 7.0}, questions=1, truncated=1)
    warned = TriedBenchmark("sums", ADAPTER, (cut,), result, ("1 of 1 prompts have text",))
    *_, warning, note = report("thinking", [warned])
    assert warning == "warning: sums: 1 of 1 prompts have text"
    assert note.startswith("note: sums: most answers were cut off")


def test_long_texts_lose_their_middle() -> None:
    assert shortened("x" * MOST_CHARACTERS) == "x" * MOST_CHARACTERS
    text = shortened("a" * MOST_CHARACTERS + "z" * 10_000)
    assert text.startswith("aaa")
    assert text.endswith("zzz")
    assert "[... 10,000 characters left out; --json has all ...]" in text
