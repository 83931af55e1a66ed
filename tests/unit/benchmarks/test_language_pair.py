"""The problems and stages of benchmarks/pairs/language_pair.py, and `few_merges.py`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apbmm_common.answer_rules import AnswerRule
from apbmm_common.run_file import load_run_file
from benchmarks.pairs import language_pair
from benchmarks.pairs.language_pair_problems import (
    GRADES,
    MARKER,
    WORD_PROBLEMS,
    worded,
)
from benchmarks.pairs.second_pair_problems import Problem, draw
from benchmarks.real_merges import few_merges
from benchmarks.real_merges.evaluations import Asked, Benchmark, Discrepancy, Store, rounded

KINDS = list(WORD_PROBLEMS)


def drawn(kind: str, seed: int, *, held_out: bool = False) -> list[Problem]:
    rng = random.Random(seed)
    return [
        draw(rng, kind, held_out=held_out, most_steps=GRADES, tasks=WORD_PROBLEMS)
        for _ in range(200)
    ]


def solved(question: str) -> int:
    """The answer, from the words of the question alone."""
    sentences = [sentence.split() for sentence in question.rstrip("?").split(". ")]
    if sentences[0][2] == "costs":
        prices = {words[1]: int(words[3]) for words in sentences if words[2:3] == ["costs"]}
        bought = next(words for words in sentences if words[1] == "buys")
        return sum(
            int(count) * prices[ware.removesuffix("s")]
            for count, ware in zip(bought[2::3], bought[3::3], strict=True)
        )
    if sentences[0][2] == "holds":
        changes = [words for words in sentences[1:] if words[1] in {"adds", "takes"}]
        signed = [int(words[2]) * (1 if words[1] == "adds" else -1) for words in changes]
        return int(sentences[0][3]) + sum(signed)
    has = {sentences[0][0]: int(sentences[0][2])}
    for name, _, *said, other in (words for words in sentences[1:] if words[1] == "has"):
        of_other = has[other]
        if said[:1] == ["twice"]:
            has[name] = 2 * of_other
        else:
            has[name] = of_other + int(said[0]) * (1 if said[1] == "more" else -1)
    return has[sentences[-1][-2]]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_worked_out_leads_to_the_answer(kind: str) -> None:
    for problem in drawn(kind, 0):
        assert int(problem.answer) == solved(problem.question)
        for step in problem.worked:
            sides = step.split()
            assert len(sides) == 5
            first, second = int(sides[0]), int(sides[2])
            by_sign = {"+": first + second, "-": first - second, "*": first * second}
            assert by_sign[sides[1]] == int(sides[4])
            assert int(sides[4]) > 0
        assert problem.worked[-1].endswith(f"= {problem.answer}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_problem_has_more_steps_in_a_higher_grade(kind: str) -> None:
    rng = random.Random(1)
    steps = [{len(WORD_PROBLEMS[kind](rng, g).worked) for _ in range(20)} for g in (1, 2, 3)]
    assert steps == ([{1}, {3}, {5}] if kind == "prices" else [{1}, {2}, {3}])


@pytest.mark.parametrize("kind", KINDS)
def test_no_held_out_question_is_trained_on(kind: str) -> None:
    asked, trained = (
        {problem.question for problem in drawn(kind, 2, held_out=held_out)}
        for held_out in (True, False)
    )
    assert not asked & trained


def test_both_ways_to_answer_end_with_what_the_benchmark_finds() -> None:
    rule = AnswerRule.of({"after": MARKER})
    for steps in ((), ("3 + 4 = 7", "7 * 2 = 14")):
        assert rule.answer_in(worded(steps, "14")) == "14"


def test_problems_and_run_file_are_written_and_fit_each_other(tmp_path: Path) -> None:
    for model in language_pair.STAGES:  # nothing is made that is there
        (tmp_path / model).mkdir()
        (tmp_path / model / "tokenizer_config.json").touch()
    language_pair.main(["--out", str(tmp_path)])
    spec = load_run_file(tmp_path / "run.toml")
    assert [benchmark.name for benchmark in spec.benchmarks] == KINDS
    files = [b.path for b in (*spec.benchmarks, *spec.confirm.benchmarks)]
    questions = [
        json.loads(line)["question"]
        for file in files
        for line in Path(str(file)).read_text().splitlines()
    ]
    assert len(questions) == len(set(questions)) == 300 * len(KINDS)


def test_the_model_is_the_file_that_is_given(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    with pytest.raises(SystemExit, match=r"no GGUF file .*model\.gguf"):
        language_pair.gguf_file(file)
    file.touch()
    assert language_pair.gguf_file(file) == file


@pytest.mark.parametrize("script", [language_pair, few_merges])
def test_help_says_how_the_script_is_run(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        script.main(["--help"])
    assert f"python -m {script.__name__} " in capsys.readouterr().out


def test_there_are_as_many_merges_with_one_weight_as_with_own_ones_near_a_cliff() -> None:
    line, near = few_merges.one_weight(4, (0.5, 0.8), 5), few_merges.own_weights(4, 5, (0.5, 0.8))
    assert list(line)[4:10] == [f"{w:g} everywhere" for w in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75)]
    inside = [x for name, x in near.items() if name.endswith("from 0.5 to 0.8")]
    assert len(inside) == 5
    assert all(((x >= 0.5) & (x <= 0.8)).all() and len(set(x)) == 4 for x in inside)


def test_a_few_merges_are_told_from_the_line_between_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge is as right as its first weight, and as long as its last one."""

    def measured(vector: Any) -> Any:
        solved = np.arange(20) < 4 + 12 * vector[0]
        tokens = 5 + 20 * vector[-1] + np.arange(20) % 3
        return {"sums": Benchmark(tuple(map(float, solved)), tuple(map(int, tokens)))}

    Asked("words", 4, 20).keep(tmp_path)
    store = Store(tmp_path, measured, lambda: Discrepancy((), ()))
    vectors = few_merges.one_weight(4) | few_merges.own_weights(4, 2)
    for vector in (np.zeros(4), np.ones(4), *vectors.values()):
        store.answer(rounded(vector))
    monkeypatch.setattr(few_merges, "command_line", lambda: "few_merges")
    few_merges.main([str(tmp_path), "--points", "2", "--out", str(tmp_path / "found")])
    kept = json.loads((tmp_path / "found.json").read_text())
    found = {row["merge"]: row for row in kept["merges"]}
    assert len(found) == len(vectors) == 13
    best = found["thinking in the first half"]
    assert best["objectives"] == pytest.approx([1.0, 1.0])
    assert best["adds"] > 0.4
    assert found["thinking in the second half"]["adds"] == pytest.approx(0.0)
    assert found["0.5 everywhere"]["adds"] is None
    text = (tmp_path / "found.md").read_text()
    assert "| all | 13 | 1.440 | 1 |" in text
    assert "thinking answers 80.0% right" in text
