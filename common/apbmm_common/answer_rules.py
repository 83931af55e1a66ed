"""How the adapter `apbmm_answer` asks a row, finds the answer in a text, and compares it.

Expressions are compared by the worker, which has the libraries for that. All else is here, so that
a benchmark's settings and target answers are checked before anything starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

TEXTS = ("question", "answer", "id", "subset", "template", "extract", "after", "regex", "compare")
COMPARISONS = ("text", "number", "expression")

_CURRENCY = r"\\?[$€£]"
# Thousands as in 1,000 or 1,00,000, and as LaTeX has them: 1{,}000. "(3,4)" is two numbers.
_SEPARATOR = r"(?:,|\{,\}|\\,)"
_WHOLE = rf"(?:\d{{1,3}}(?:{_SEPARATOR}\d{{2,3}})*{_SEPARATOR}\d{{3}}(?!\d)|\d+)"
# A hyphen after a letter or digit is no sign: "3-12" ends with 12.
_NUMBER = re.compile(
    rf"(?:(?<!\w)[-+\u2212](?:{_CURRENCY})?)?"
    rf"(?:{_WHOLE}(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?"
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_THE_ANSWER = r"(?i:answer|(?:correct|right|best|final)\s+(?:choice|option))"
_MARKS = r"[\s:*(\\boxedtext{$\"`]*"
_ONE_LETTER = r"\b([A-Z])\b(?!')"
_LETTERS = (
    re.compile(r"\A\W*([A-Za-z])\W*\Z"),
    re.compile(rf"{_THE_ANSWER}(?i:\s+is)?{_MARKS}(?i:(?:option|choice){_MARKS})?{_ONE_LETTER}"),
    re.compile(rf"{_ONE_LETTER}\W{{0,3}}\s+is\s+(?:the\s+)?(?:correct|right|best)\b"),
    re.compile(rf"(?i:choice|option)(?i:\s+is)?{_MARKS}{_ONE_LETTER}"),
    re.compile(r"\(([A-Z])\)|\*\*([A-Z])\W?\*\*"),
    re.compile(r"^\W*([A-Z])\s*(?:[.):]|$)", re.MULTILINE),
)
_AROUND = re.compile(r"\A\*\*\s*|\.?\s*(?:\*\*)?\.?\Z")
"""What stands around an answer and is no part of it: Markdown's bold, the end of a sentence."""
_LONGEST_EXPONENT = 400
"""A number with a larger exponent would take all memory as an exact fraction."""


@dataclass(frozen=True)
class AnswerRule:
    """The settings of one benchmark of `apbmm_answer`, which its ``arguments`` hold."""

    question: str = "question"
    answer: str = "answer"
    id: str = "id"
    subset: str = "subset"
    template: str = "{question}"
    extract: str = ""
    after: str = ""
    regex: str = ""
    compare: str = ""

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> AnswerRule:
        """Raises `ValueError` with every fault of ``arguments``, one a line."""
        if faults := list(_faults(arguments)):
            raise ValueError("\n".join(faults))
        return cls(**arguments)

    @property
    def comparison(self) -> str:
        """How answers are compared: as the settings say, or as suits what is extracted."""
        return self.compare or {"last_number": "number", "boxed": "expression"}.get(
            self.extract, "text"
        )

    def columns_asked(self, columns: Iterable[str]) -> list[str]:
        """Which of a row's columns stand in the question."""
        return [c for c in columns if c == self.question or f"{{{c}}}" in self.template]

    def asked(self, cells: Mapping[str, str]) -> str:
        """The text of the user's message: the template with the row's cells in it.

        ``{question}`` stands for the question and ``{COLUMN}`` for a cell; other braces stay.
        """
        cells = {**cells, "question": cells[self.question]}
        return re.sub(r"\{([^{}]+)\}", lambda m: cells.get(m[1], m[0]), self.template)

    def answer_in(self, text: str) -> str | None:
        """The answer that a generated text gives; None where the rule finds none."""
        if self.after:
            return _after(text, self.after)
        if self.regex:
            return _last_match(text, self.regex)
        return EXTRACTIONS[self.extract](text)

    def target(self, answer: str) -> str:
        """The right answer of a row: with a marker or a box in it, what stands there.

        Raises `ValueError` for one that no answer could equal.
        """
        found = answer.strip()
        if self.after or self.extract == "boxed":
            found = self.answer_in(answer) or found
        if self.extract == "letter":
            found = found.strip("().").upper()
            if not re.fullmatch("[A-Z]", found):
                raise ValueError("is not a letter, which extract = 'letter' finds")
        if self.comparison == "number" and number(found) is None:
            raise ValueError("is not a number, but is compared as one")
        return found

    def phrased(self, target: str) -> str | None:
        """A text in which the rule finds ``target``; None where its form is not known."""
        if self.after:
            return f"{self.after} {target}"
        if self.extract == "boxed":
            return rf"\boxed{{{target}}}"
        if not self.regex:
            return target
        texts = (target, _as_regex_reads(self.regex, target))
        return next((text for text in texts if self.answer_in(text) == target), None)

    def is_equal(
        self, answer: str, target: str, same_expression: Callable[[str, str], bool]
    ) -> bool:
        """Whether an answer is the right one. ``same_expression`` compares what is neither equal
        as text nor two numbers. Bold (``**``) and a full stop around either do not count."""
        answer, target = _bare(answer), _bare(target)
        if answer == target:
            return True
        if self.comparison == "text":
            return False
        numbers = number(answer), number(target)
        if self.comparison == "number" or None not in numbers:
            return numbers[0] is not None and numbers[0] == numbers[1]
        return same_expression(answer, target)


def template_words(arguments: Mapping[str, Any]) -> str:
    """What the template of a benchmark's ``arguments`` adds to the cells of a row."""
    return re.sub(r"\{[^{}]+\}", " ", str(arguments.get("template", ""))).strip()


def number(text: str) -> Fraction | None:
    """The exact value of a text that is one number; None for any other text.

    What separates thousands, a currency sign, a percent sign and an end of sentence do not count:
    50% is 50.
    """
    plain = text.strip().strip("$").removesuffix(".").removesuffix("%").removesuffix("\\").strip()
    plain = re.sub(rf"^([-+]?){_CURRENCY}", r"\1", plain.replace("\u2212", "-"))
    if not _NUMBER.fullmatch(plain):
        return None
    above, _, below = re.sub(_SEPARATOR, "", plain).partition("/")
    value = Decimal(above)
    if abs(value.adjusted()) > _LONGEST_EXPONENT or (below and not int(below)):
        return None
    return Fraction(value) / int(below or 1)


def _faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    meant: set[str] = set()
    for name, value in arguments.items():
        if name not in TEXTS:
            near = get_close_matches(name, TEXTS, 1)
            meant.update(near)
            instead = f'did you mean "{near[0]}"?' if near else f"there are {_alternatives(TEXTS)}"
            yield f"unknown argument {name}, {instead}"
        elif not isinstance(value, str) or not value:
            yield f"{name} must be a text"
    ways = [name for name in ("extract", "after", "regex") if arguments.get(name, name in meant)]
    if len(ways) != 1:
        yield (
            "apbmm_answer needs one of extract, after and regex: how the answer is found in a text"
        )
    if not re.search(r"\{[^{}]+\}", str(arguments.get("template") or "{question}")):
        yield "template names no column, so every question would be the same: write {question}"
    extract, compare = arguments.get("extract", "exact"), arguments.get("compare", "text")
    if extract and extract not in EXTRACTIONS:
        yield f"extract must be {_alternatives(EXTRACTIONS)}, not {extract!r}"
    if compare not in COMPARISONS:
        yield f"compare must be {_alternatives(COMPARISONS)}, not {compare!r}"
    try:
        re.compile(str(arguments.get("regex", "")))
    except re.error as error:
        yield f"regex is not a regular expression: {error}"


def _alternatives(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


# ---- extraction ----------------------------------------------------------------------------------


def _exact(text: str) -> str | None:
    return text.strip() or None


def _boxed(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` holds; None if that is not closed."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    begin, depth = boxes[-1].end(), 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[begin:place].strip() or None
    return None


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return found[-1] if found else None


def _letter(text: str) -> str | None:
    """The letter of a choice: a text that is one letter, or what "answer is", "is correct" or a box
    names, or one in parentheses or bold, or one that begins a line; the last of the first kind.
    "Option A" in an explanation does not count beside "the answer is B"."""
    for pattern in _LETTERS:
        found = [letter for match in pattern.finditer(text) for letter in match.groups() if letter]
        if found:
            return found[-1].upper()
    boxed = _boxed(text)
    return _letter(re.sub(r"\\[a-z]+\{([^{}]*)\}", r"\1", boxed)) if boxed else None


def _after(text: str, marker: str) -> str | None:
    """The rest of the line after the last ``marker``."""
    _, found, rest = text.rpartition(marker)
    return (rest.strip().partition("\n")[0].strip() or None) if found else None


def _last_match(text: str, pattern: str) -> str | None:
    """The last match of a regular expression: its first group if it has groups."""
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    groups = [group for group in matches[-1].groups() if group is not None]
    return (groups[0] if groups else matches[-1].group()).strip() or None


def _as_regex_reads(pattern: str, target: str) -> str:
    """The literal text of a regular expression with ``target`` in place of its first group."""
    group = re.search(r"(?<!\\)\((?!\?)(?:[^()\\]|\\.)*\)", pattern)
    if group is None:
        return target
    around = [pattern[: group.start()], pattern[group.end() :]]
    for syntax, literal in (
        (r"\(\?[a-z]+\)|\\[bAZ]|(?<!\\)[\^$]", ""),
        (r"\\s[*+]?", " "),
        (r"(?<!\\)[*+?]", ""),
        (r"\\(.)", r"\1"),
    ):
        around = [re.sub(syntax, literal, text) for text in around]
    return target.join(around)


def _bare(text: str) -> str:
    plain = " ".join(text.split())
    return _AROUND.sub("", plain) or plain


EXTRACTIONS: dict[str, Callable[[str], str | None]] = {
    "exact": _exact,
    "boxed": _boxed,
    "last_number": _last_number,
    "letter": _letter,
}
"""How an answer is found, by the value of ``extract``."""
