"""A probe whose answers are not worth a search: why, with an example and a rule that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apbmm.answers.records import RecordedAnswer
from apbmm.probe import poor_answers
from apbmm.probe.forecast import Probed
from apbmm.questions.messages import RenderedBenchmark
from apbmm_common.protocol.messages import BenchmarkResult, Evaluated
from rehearsal_runs import run_spec

TEXTS = ["so 3 and 4 make 7", "\\boxed{8}", "9 it is", "I do not know"]
BOXED = {"extract": "boxed", "compare": "number"}


def recorded(text: str, target: str) -> RecordedAnswer:
    found = "8" if "boxed" in text else ""
    return RecordedAnswer(
        "", "?", text, 5, False, bool(found), found, target, float(found == target), {}
    )


def probed(accuracy: float, malformed: int, questions: int) -> list[Probed]:
    result = BenchmarkResult(
        metrics={"accuracy": accuracy, "tokens": 5.0}, questions=questions, malformed=malformed
    )
    return [Probed(s, Evaluated(benchmarks={"own": result}), ()) for s in ("thinking", "instruct")]


@pytest.fixture
def answers() -> tuple[dict[str, str], dict[str, str]]:
    """The benchmark's arguments, and texts with the right answers."""
    return BOXED, {text: str(7 + n) for n, text in enumerate(TEXTS)}


@pytest.fixture
def reasons(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    answers: tuple[dict[str, str], dict[str, str]],
) -> Any:
    """`reasons_to_end` of a benchmark of one's own with these answers."""
    arguments, texts = answers
    kept = {("test", n): recorded(*pair) for n, pair in enumerate(texts.items())}
    monkeypatch.setattr(poor_answers, "recorded_answers", lambda *_: kept)
    (tmp_path / "own.jsonl").write_text('{"question": "?", "answer": "7"}\n')

    def of(
        accuracy: float, malformed: int, unknown: int = 0, questions: int = 4, **budget: Any
    ) -> list[str]:
        own = {"name": "own", "adapter": "apbmm_answer", "path": str(tmp_path / "own.jsonl")}
        spec = run_spec(
            benchmarks=[{**own, "arguments": arguments}],
            budget={"evaluations": 8, "initial": 2, **budget},
        )
        prompts = RenderedBenchmark(
            count=4, distinct=4, longest=9, unknown_prompts=unknown, first=()
        )
        return poor_answers.reasons_to_end(
            spec, probed(accuracy, malformed, questions), tmp_path, {"own": prompts}
        )

    return of


def test_malformed_answers_are_told_with_an_example_and_the_rule_that_fits(reasons: Any) -> None:
    lines = reasons(0.25, 3)
    assert lines[0].startswith("thinking, own: 3 of 4 answers are malformed")
    assert any("no answer was found in 'so 3 and 4 make 7'" in line for line in lines)
    assert any("the right answer is '7'" in line for line in lines)
    fix = 'extract = "last_number" in its arguments would find an answer in 3 of 4, 3 of them right'
    assert f"thinking, own: {fix}" in lines


@pytest.mark.parametrize(
    "answers",
    [({"extract": "letter"}, {"b ; hop #D": "D", "go # E": "E", "x ; # F": "F", "1 ; 2": "G"})],
)
def test_a_mark_before_the_answers_is_told(reasons: Any) -> None:
    fix = 'after = "#" in its arguments would find an answer in 3 of 4, 3 of them right'
    assert f"thinking, own: {fix}" in reasons(0.0, 4)


def test_prompts_that_the_tokenizer_does_not_know_are_told_before_other_rules(reasons: Any) -> None:
    lines = reasons(0.25, 3, unknown=3)
    told = [n for n, line in enumerate(lines) if line.startswith("own: 3 of 4 prompts have text")]
    rules = [n for n, line in enumerate(lines) if "last_number" in line]
    assert len(told) == 1
    assert told < rules
    assert not any("prompts have text" in line for line in reasons(0.25, 3))


def test_no_right_answer_ends_a_run_whatever_is_allowed(reasons: Any) -> None:
    assert reasons(0.0, 0, any_references=True)[0] == "own: no source answers any question right"


def test_a_tie_of_few_right_answers_is_told_with_an_example_and_the_rule_that_fits(
    reasons: Any,
) -> None:
    lines = reasons(0.1, 15, questions=20)
    assert (
        "own: thinking and instruct both answer 2 of 20 questions right, and few: they cannot be "
        "told apart"
    ) in lines
    for source in ("thinking", "instruct"):
        assert any(line.startswith(f"{source}, own: for example, no answer") for line in lines)
        assert any(line.startswith(f'{source}, own: extract = "last_number"') for line in lines)
    assert reasons(0.1, 0, questions=20) == [], "of more questions one may be the better"


def test_a_run_that_goes_on_has_no_reasons(reasons: Any) -> None:
    assert reasons(0.25, 1) == []
    assert reasons(0.25, 3, any_references=True) == []
