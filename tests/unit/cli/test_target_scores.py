"""Each benchmark's own right answers, scored by EvalScope as if the model had given them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from apbmm.questions.ask import render_questions
from apbmm.questions.messages import RenderedBenchmark
from apbmm_common.answer_rules import AnswerRule
from apbmm_common.run_file.load import parse_run
from tiny_checkpoints import write_tiny_pair

pytest.importorskip("evalscope", reason="EvalScope is not installed here")

MATHEMATICS = (
    r"\left( 3, \frac{\pi}{2} \right)", "p - q", r"\text{Evelyn}", r"10,\!080", r"\$32{,}348",
    r"x \in [-2,7]", r"\begin{pmatrix} -2 \\ 7 \end{pmatrix}", r"5.4 \text{ cents}", r"70\%",
    r"(-\infty, 2) \cup (3, \infty)", "2516_8", r"15\mbox{ cm}^2", r"3 \pm 2 \sqrt{2}",
)  # fmt: skip


def questions(answers: Sequence[str], **more: Any) -> list[dict[str, Any]]:
    return [{"question": f"q{n}", "answer": a, **more} for n, a in enumerate(answers)]


def problems(answers: Sequence[str]) -> list[dict[str, Any]]:
    return [{"problem": f"q{n}", "answer": a, "level": 1} for n, a in enumerate(answers)]


def choices(right: Sequence[str]) -> list[dict[str, Any]]:
    wrong = {f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}
    return [{"Question": f"q{n}", "Correct Answer": a, **wrong} for n, a in enumerate(right)]


BENCHMARKS: dict[str, tuple[str, str, list[dict[str, Any]], dict[str, Any]]] = {
    "math": ("math_500", "test", problems(MATHEMATICS), {}),
    "unreadable": ("math_500", "test", problems(["2", r"\frac{", "2"]), {}),
    "gsm": ("gsm8k", "test", questions(["#### 1,000", "#### 5 apples"]), {"few_shot_num": 0}),
    "gpqa": ("gpqa_diamond", "train", choices(["right", "ANSWER: B"]), {}),
    "exact": ("apbmm_exact", "test", questions(["x", "two words"]), {}),
    "boxed": ("apbmm_answer", "test", questions([r"\frac12", "yes"]), {"extract": "boxed"}),
    "regex": (
        "apbmm_answer", "test", questions(["1", "2", "two words"]), {"regex": r"Answer:?\s*(\S+)"}
    ),
    "unknown": ("apbmm_answer", "test", questions(["1"]), {"regex": r"(?:a|b)(\d)"}),
}  # fmt: skip


REPEATS = {"regex": 4}


def of_several_subsets(root: Path) -> list[dict[str, Any]]:
    """A list of files for ``general_qa``, a folder of subsets for ``general_mcq``."""
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hot or cold"}]
    mcq = {"question": "which?", "A": "one", "B": "two"}
    files: dict[str, list[dict[str, Any]]] = {
        "qa/easy.jsonl": [
            {"question": "e0", "answer": "two words"},
            {"query": "e1", "response": 7},
        ],
        "qa/more/hard_test.jsonl": [{"messages": chat, "answer": "hot"}],
        "mcq/law_val.jsonl": [mcq | {"answer": "B"}, mcq | {"answer": "A", "C": "three"}],
        "mcq/law_dev.jsonl": [{"question": "an example?", "A": "yes", "B": "no", "answer": "A"}],
        "mcq/art_val.jsonl": [mcq | {"answer": "A"}],
        "mcq/art_dev.jsonl": [{"question": "of art?", "A": "yes", "B": "no", "answer": "B"}],
        "several/test.jsonl": [
            mcq | {"C": "three", "answer": ["A", "C"]},
            mcq | {"answer": "A, B"},
        ],
    }
    for name, rows in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    qa = [str(root / "qa/easy.jsonl"), str(root / "qa/more/hard_test.jsonl")]
    shots = {"few_shot_num": 1, "subset_list": ["law", "art"]}
    several = {"extra_params": {"multiple_correct": True}}
    return [
        {"name": "qa", "adapter": "general_qa", "path": qa},
        {"name": "mcq", "adapter": "general_mcq", "path": str(root / "mcq"), "arguments": shots},
        {
            "name": "several", "adapter": "general_mcq", "path": str(root / "several"),
            "arguments": several,
        },
    ]  # fmt: skip


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, RenderedBenchmark]:
    root = tmp_path_factory.mktemp("run")
    write_tiny_pair(root, layers=1)
    sections = []
    for name, (adapter, split, rows, arguments) in BENCHMARKS.items():
        file = root / name / f"{split}.jsonl"
        file.parent.mkdir()
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        section = {"name": name, "adapter": adapter, "path": str(file.parent)}
        sections.append({**section, "arguments": arguments, "repeats": REPEATS.get(name, 1)})
    sections += of_several_subsets(root)
    table = {
        "name": "trial",
        "sources": {role: str(root / role) for role in ("thinking", "instruct")},
        "benchmarks": sections,
        "generation": {"max_tokens": 10, "context": 900, "temperature": 0.6},
    }
    spec = parse_run(table, "the test's run file")
    return asyncio.run(render_questions(spec, root / "scratch", most=9, targets=True))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_right_answers_score_1_in_the_form_that_the_adapter_reads(
    rendered: Mapping[str, RenderedBenchmark],
) -> None:
    for name in ("math", "gsm", "gpqa", "exact", "boxed", "qa", "mcq", "several"):
        found = rendered[name]
        assert (name, found.target_faults, found.target_notes) == (name, (), ())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_that_cannot_be_scored_or_does_not_score_1_is_named_with_its_row(
    rendered: Mapping[str, RenderedBenchmark],
) -> None:
    (fault,) = rendered["unreadable"].target_faults
    assert fault.startswith("1 of 3 targets cannot be scored when they are given as the answer")
    assert "unreadable/test.jsonl, line 2 (target '\\\\frac{', as the answer" in fault
    (note,) = rendered["regex"].target_notes  # once, although each is asked several times
    assert note.startswith("1 of 3 targets do not score 1 when they are given as the answer")
    assert "regex/test.jsonl, line 3 (target 'two words'" in note
    assert not rendered["regex"].target_faults
    (note,) = rendered["unknown"].target_notes
    assert "was not checked: the form that its adapter reads is not known" in note


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_file_is_a_subset_of_general_qa_and_general_mcq(
    rendered: Mapping[str, RenderedBenchmark],
) -> None:
    asked = {
        name: [(q.question, q.subset, q.asked, q.target) for q in rendered[name].first]
        for name in ("qa", "mcq", "several")
    }
    assert asked["qa"] == [
        ("easy/0", "easy", "e0", "two words"),
        ("easy/1", "easy", "e1", "7"),
        ("hard/0", "hard", "hot or cold", "hot"),
    ]
    assert "Be brief." in rendered["qa"].first[2].prompt
    assert [(*q[:2], q[3]) for q in asked["mcq"]] == [
        ("law/0", "law", "B"), ("law/1", "law", "A"), ("art/0", "art", "A")
    ]  # fmt: skip
    for (*_, text, _), example in zip(
        asked["mcq"], ("an example?", "an example?", "of art?"), strict=True
    ):
        assert f"{example}\nA) yes" in text
    assert [q[0] for q in asked["several"]] == ["0", "1"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"extract": "boxed"}, r"\boxed{7}"),
        ({"extract": "last_number"}, "7"),
        ({"after": "####"}, "#### 7"),
        ({"regex": r"\d+"}, "7"),
        ({"regex": r"(?i)^the answer is:?\s*\**(\d+)\b"}, "the answer is: *7"),
        ({"regex": r"\((\d)\)"}, "(7)"),
        ({"regex": r"(?:a|b)(\d)"}, None),
    ],
)
def test_a_rule_phrases_the_answer_that_it_finds(
    arguments: dict[str, str], text: str | None
) -> None:
    rule = AnswerRule.of(arguments)
    assert rule.phrased("7") == text
    assert text is None or rule.answer_in(text) == "7"
