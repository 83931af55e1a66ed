"""`apbmm answers`: scores and tokens of the journal, and the texts that a worker kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from apbmm.answers.records import RecordedAnswer
from apbmm.answers.side_by_side import matched
from apbmm.results.run_results import read_results
from apbmm_master.journal.storage.store import read_outcomes
from commands import called
from protocol_world import measurement
from written_runs import LIMIT, answered, repeated_sums, write_run

ADAPTER = "sums"
SCORES, TOKENS = [1.0, 0.0, 1.0], [10, 20, LIMIT]
OTHERS = [0.0, 0.0, 1.0], [5, 6, 7]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    points = [answered(SCORES, TOKENS), answered(*OTHERS), measurement(0.5, 10.0)]
    return write_run(tmp_path / "run", points)


def write_texts(
    state: Path, folder: Path, evaluation: str, tokens: Sequence[int], *, ids: bool = True
) -> None:
    """EvalScope's records of answers, as the worker keeps them."""
    records = state / "outputs" / read_results(folder).run / evaluation / "sums"
    predictions, reviews = [], []
    for index, (score, count) in enumerate(zip(SCORES, tokens, strict=True)):
        message = {"content": f"answer {index} of {evaluation}"}
        choice = {"message": message, "stop_reason": "max_tokens" if count == LIMIT else "stop"}
        predictions.append({
            "index": index,
            "model_output": {"choices": [choice], "usage": {"output_tokens": count}},
            "messages": [{"role": "user", "content": f"what is {index}?"}],
        })  # fmt: skip
        scored = {"value": {"acc": score}, "extracted_prediction": str(index)}
        metadata = {"question_id": f"q{index}"} if ids else {}
        reviews.append({
            "index": index, "target": [str(index)],
            "sample_score": {"score": scored, "sample_metadata": metadata},
        })  # fmt: skip
    for kind, rows in (("predictions", predictions), ("reviews", reviews)):
        file = records / kind / "merge" / f"{ADAPTER}_main.jsonl"
        file.parent.mkdir(parents=True)
        # The rows are in the order of completion, which is not that of the questions.
        file.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))


def printed(*arguments: object) -> dict[str, Any]:
    done = called("answers", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_scores_and_tokens_are_the_journals_without_any_text(folder: Path) -> None:
    whole = printed(folder, "--eval", "e0001", "--against", "e0002")
    assert (whole["rehearsal"], whole["evaluations"]) == (True, ["e0001", "e0002"])
    for number, question in enumerate(whole["questions"]):
        assert (question["benchmark"], question["question"]) == ("sums", f"q{number}")
        one, other = question["answers"]["e0001"], question["answers"]["e0002"]
        assert (one["score"], one["tokens"]) == (SCORES[number], TOKENS[number])
        assert (other["score"], other["tokens"]) == (OTHERS[0][number], OTHERS[1][number])
        assert (one["answer"], question["asked"]) == (None, None)
    shown = called("answers", folder, "--eval", "e0001", "--against", "e0002").stdout
    assert "sums/q0" in shown
    assert "sums/q1" not in shown  # alike
    assert "3 questions: e0001 scores higher in 1, e0002 in 0, both alike in 2" in shown
    alone = called("answers", folder, "--eval", "e0001").stdout
    assert alone.startswith("REHEARSAL: the measurements are invented")
    assert f"{LIMIT} (cut)" in alone
    assert alone.splitlines()[-1] == "3 answers"


@pytest.mark.parametrize("ids", [True, False])
def test_texts_are_found_beside_the_run_and_shown_together(folder: Path, ids: bool) -> None:
    write_texts(folder / "workers" / "a", folder, "e0001", TOKENS, ids=ids)
    whole = printed(folder, "--eval", "e0001", "--question", "sums/q2")
    (question,) = whole["questions"]
    assert (question["asked"], question["target"]) == ("what is 2?", "2")
    assert question["answers"]["e0001"]["answer"] == "answer 2 of e0001"
    shown = called("answers", folder, "--eval", "e0001", "--against", "e0002", "--question", "q2")
    assert shown.returncode == 0
    for text in ("what is 2?", "target: 2", "answer 2 of e0001", "(text not found)"):
        assert text in shown.stdout


def test_texts_of_another_attempt_are_left_out(folder: Path, tmp_path: Path) -> None:
    write_texts(tmp_path / "state", folder, "e0001", [10, 21, LIMIT])
    state = ("--state", tmp_path / "state")
    whole = printed(folder, "--eval", "e0001", *state)
    texts = [question["answers"]["e0001"]["answer"] for question in whole["questions"]]
    assert texts == ["answer 0 of e0001", None, "answer 2 of e0001"]
    refused = called("answers", folder, "--eval", "e0001", "--question", "q1", *state)
    assert refused.returncode == 1
    assert "of another attempt" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--eval", "e0009"], 2, "has no evaluation e0009"),
        (["--eval", "e0001", "--question", "q9"], 2, "--question q9: was not asked"),
        (["--eval", "e0003"], 1, "no answers of e0003: a rehearsal asks no questions"),
        (["--eval", "e0001", "--question", "q1"], 1, "not on this host: worker a on h keeps"),
    ],
)
def test_what_is_not_there_is_named(
    folder: Path, arguments: list[str], code: int, message: str
) -> None:
    refused = called("answers", folder, *arguments)
    assert refused.returncode == code
    error, hint = (*refused.stderr.splitlines(), "")[:2]
    assert message in error
    assert hint.startswith("hint: ") or "rehearsal" in error


REPEATED = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
"""Scores of two answers to each of three questions."""


def write_repeated(tmp_path: Path) -> Path:
    ends = {
        "thinking": answered([1.0] * 6, [900] * 6, 2),
        "instruct": answered([0.0] * 6, [100] * 6, 2),
    }
    points = [answered(REPEATED, [10, 11, 20, 21, 30, 31], 2), answered([1.0] * 6, [5] * 6, 2)]
    return write_run(tmp_path / "run", points, ends=ends, **repeated_sums(2))


def test_answers_to_one_question_are_found_by_its_id_and_counted_as_one(tmp_path: Path) -> None:
    folder = write_repeated(tmp_path)
    both = printed(folder, "--eval", "e0001", "--question", "sums/q1")["questions"]
    assert [(q["question"], q["answer"], q["answers"]["e0001"]["tokens"]) for q in both] == [
        ("q1", "q1#1", 20), ("q1", "q1#2", 21)
    ]  # fmt: skip
    (second,) = printed(folder, "--eval", "e0001", "--question", "q1#2")["questions"]
    assert second["answers"]["e0001"]["tokens"] == 21
    shown = called("answers", folder, "--eval", "e0001", "--against", "e0002").stdout
    assert "sums/q0#2" in shown
    assert "3 questions: e0001 scores higher in 0, e0002 in 2, both alike in 1" in shown


@pytest.mark.parametrize("question", ["q", ""])
def test_texts_are_those_of_their_repetitions(tmp_path: Path, question: str) -> None:
    folder = write_repeated(tmp_path)
    records = {
        ("main", index): RecordedAnswer(
            question=f"q{index // 2}" if question else "",
            asked="",
            answer=f"answer {index}",
            tokens=10 * (index // 2 + 1) + index % 2,
            truncated=False,
            well_formed=None,
            extracted="",
            target="",
            score=score,
            scores={},
        )
        for index, score in enumerate(REPEATED)
    }
    rows = read_outcomes(folder, "e0001")
    found = matched(rows, dict(reversed(records.items())), 2)
    assert {name: answer.answer for name, answer in found.items()} == {
        f"q{n // 2}#{n % 2 + 1}": f"answer {n}" for n in range(6)
    }
