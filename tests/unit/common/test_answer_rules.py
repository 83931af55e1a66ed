"""How `apbmm_answer` asks, finds answers and compares them."""

from __future__ import annotations

from typing import Any

import pytest

from apbmm_common.answer_rules import AnswerRule, number


@pytest.mark.parametrize(
    ("arguments", "text", "answer"),
    [
        ({"extract": "exact"}, " a b \n", "a b"),
        ({"extract": "exact"}, " \n", None),
        ({"extract": "boxed"}, r"\boxed{1} so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ({"extract": "boxed"}, r"\boxed{1} so \boxed{2", None),
        ({"extract": "boxed"}, "42", None),
        ({"extract": "last_number"}, "3 and 4 make 1,007.50.", "1,007.50"),
        ({"extract": "last_number"}, "x = -1/2", "-1/2"),
        ({"extract": "last_number"}, "It is \u22125.", "\u22125"),
        ({"extract": "last_number"}, "It loses -$1,200.", "-$1,200"),
        ({"extract": "last_number"}, "pages 3-12", "12"),
        ({"extract": "last_number"}, "the point (3,4)", "4"),
        ({"extract": "last_number"}, "3,4567", "4567"),
        ({"extract": "last_number"}, "1,00,000 rupees, 1000", "1000"),
        ({"extract": "last_number"}, "about 1,00,000", "1,00,000"),
        ({"extract": "last_number"}, "so 12{,}345", "12{,}345"),
        ({"extract": "last_number"}, "none", None),
        ({"extract": "letter"}, "(b)", "B"),
        ({"extract": "letter"}, "A cat. So the answer is (C).", "C"),
        ({"extract": "letter"}, "Not **A**, but **D**", "D"),
        ({"extract": "letter"}, r"So \boxed{\text{B}}", "B"),
        ({"extract": "letter"}, "The answer is B. Option A is too small.", "B"),
        ({"extract": "letter"}, "The correct option is B.\nOption C: no.", "B"),
        ({"extract": "letter"}, "The answer is option (B), as choice A is wrong.", "B"),
        ({"extract": "letter"}, 'The answer is "B".', "B"),
        ({"extract": "letter"}, "I take choice D.", "D"),
        ({"extract": "letter"}, "Option A is too small. **B** is the correct answer.", "B"),
        ({"extract": "letter"}, "A is not correct, so option C.", "C"),
        ({"extract": "letter"}, "A cat sat.", None),
        ({"after": "####"}, "#### 1\nso\n#### 18 \nbye", "18"),
        ({"after": "####"}, "18", None),
        ({"regex": r"Answer: (\w+)"}, "Answer: a. Answer: b.", "b"),
        ({"regex": r"\d+"}, "1 2", "2"),
    ],
)
def test_an_answer_is_found_by_the_rule(
    arguments: dict[str, Any], text: str, answer: str | None
) -> None:
    assert AnswerRule.of(arguments).answer_in(text) == answer


def test_questions_are_asked_verbatim_or_by_a_template() -> None:
    cells = {"problem": r"{x} in \boxed{}?", "unit": "cm"}
    bare = AnswerRule.of({"question": "problem", "extract": "exact"})
    assert bare.asked(cells) == cells["problem"]
    rule = AnswerRule.of(
        {"question": "problem", "extract": "boxed", "template": r"{question} In {unit}. \boxed{}"}
    )
    assert rule.asked(cells) == r"{x} in \boxed{}? In cm. \boxed{}"


@pytest.mark.parametrize(
    ("arguments", "answer", "target"),
    [
        ({"after": "####"}, "6 * 3\n#### 18", "18"),
        ({"extract": "boxed"}, r"so \boxed{7}", "7"),
        ({"extract": "letter"}, "(b)", "B"),
        ({"extract": "last_number"}, " 1,000 ", "1,000"),
    ],
)
def test_the_target_is_the_final_answer_of_its_cell(
    arguments: dict[str, Any], answer: str, target: str
) -> None:
    assert AnswerRule.of(arguments).target(answer) == target


@pytest.mark.parametrize(
    ("arguments", "answer"), [({"extract": "letter"}, "7"), ({"extract": "last_number"}, "seven")]
)
def test_a_target_that_no_answer_could_equal_is_refused(
    arguments: dict[str, Any], answer: str
) -> None:
    with pytest.raises(ValueError, match="is not a"):
        AnswerRule.of(arguments).target(answer)


@pytest.mark.parametrize(
    ("compare", "answer", "target", "equal"),
    [
        ("text", "a  b", "a b", True),
        ("text", "1.0", "1", False),
        ("text", "** Paris", "Paris", True),
        ("text", "Paris**", "Paris", True),
        ("text", "**Paris**.", "Paris", True),
        ("text", "U.S.", "U.S.", True),
        ("text", "paris", "Paris", False),
        ("text", "A*", "A", False),
        ("text", "**", "*", False),
        ("number", "1,000.0", "1000", True),
        ("number", "1/2", "0.5", True),
        ("number", "$50", "50%", True),
        ("number", "12{,}345", "12345", True),
        ("number", r"1\,000", "1000", True),
        ("number", "3,4", "34", False),
        ("number", "** 42", "42", True),
        ("number", "\u22125", "-5", True),
        ("number", "\u22125", "5", False),
        ("number", "-$1,200", "-1200", True),
        ("number", r"\$5", "5", True),
        ("number", "x", "1", False),
        ("expression", "2", "3", False),
        ("expression", "x", "y", True),
    ],
)
def test_comparisons(compare: str, answer: str, target: str, equal: bool) -> None:
    rule = AnswerRule.of({"extract": "exact", "compare": compare})
    assert rule.is_equal(answer, target, lambda *_: True) is equal


def test_what_is_compared_follows_what_is_found() -> None:
    expected = {"boxed": "expression", "last_number": "number", "letter": "text"}
    assert {how: AnswerRule.of({"extract": how}).comparison for how in expected} == expected


def test_numbers_that_would_take_all_memory_are_none() -> None:
    assert number("1e999999999") is None
    assert number("1/0") is None


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({}, "needs one of extract, after and regex"),
        ({"extract": "boxed", "after": "x"}, "needs one of"),
        ({"extract": "box"}, "extract must be exact, boxed, last_number or letter, not 'box'"),
        ({"extract": "exact", "compare": "=="}, "compare must be text, number or expression"),
        ({"regex": "("}, "regex is not a regular expression"),
        ({"extract": "exact", "qestion": "q"}, 'unknown argument qestion, did you mean "question"'),
        ({"extract": "exact", "question": 3}, "question must be a text"),
        ({"extract": "exact", "template": "Answer:"}, "template names no column"),
    ],
)
def test_faults_of_the_arguments(arguments: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        AnswerRule.of(arguments)


def test_a_misspelt_argument_is_one_fault() -> None:
    with pytest.raises(ValueError, match="after") as caught:
        AnswerRule.of({"aftr": "Answer:"})
    assert str(caught.value) == 'unknown argument aftr, did you mean "after"?'
