"""Guesses the adapter of a benchmark from its columns and answers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from apbmm.check.inspect import is_known_adapter, unknown_adapter
from apbmm.init.close_paths import meant
from apbmm_common.datasets.benchmark_folders.general_adapters import LETTERS
from apbmm_common.datasets.benchmark_folders.selection import (
    Selection,
    columns_of,
    select_questions,
)
from apbmm_common.errors import SourceError, UsageError
from apbmm_common.run_file import BenchmarkSection
from apbmm_common.run_file.sections.benchmarks import ANSWER_ADAPTER

AIME = ("aime24", "aime25", "aime26")
QUESTION_COLUMNS = ("question", "problem", "prompt", "query", "input", "instruction", "Question")
ANSWER_COLUMNS = ("answer", "target", "solution", "response", "output", "label", "Answer")
CHOICES = "general_mcq"
BOXED = "{question}\nPut your final answer in \\boxed{}."
MANY = 300
SAMPLE = 200
"""Of more than `MANY` questions so many are proposed: each merge is asked all of them."""
TAKEN = frozenset(("thinking", "instruct", "base", "adapters", "prompts"))
"""Names that a benchmark cannot have."""
GUESSED = "guess"
UNNAMED = f"benchmark {GUESSED}: "
"""What messages of a benchmark without a name begin with."""
NUMBER = re.compile(r"[-+$]?\d[\d,]*(\.\d+)?%?")
MATHEMATICS = re.compile(r"[\d\\=^]")


@dataclass(frozen=True)
class Guess:
    """A benchmark that was understood."""

    path: Path
    adapter: str
    reason: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    questions: int | None = None
    """How many questions it has; None where apbmm does not know its adapter's files."""
    longest: int = 0
    """Characters of its longest question with its choices."""
    comment: str = ""
    """What the run file says above its arguments."""

    def named(self, taken: Collection[str]) -> str:
        """Its name in the run file: that of its folder or file, and none of ``taken``."""
        stem = self.path.stem if self.path.is_file() else self.path.name
        own = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:48] or self.adapter
        names = [own, *(f"{own}-{number}" for number in range(2, len(taken) + 3))]
        return next(name for name in names if name not in TAKEN and name not in taken)


class ColumnsError(UsageError):
    """No column of a benchmark is known as its question, or none as its answer.

    ``columns`` are those that it has; ``missing`` is "question", "answer" or both.
    """

    def __init__(
        self, message: str, hint: str, columns: Sequence[str], missing: Sequence[str]
    ) -> None:
        super().__init__(message, hint)
        self.columns = columns
        self.missing = missing


def guess(given: str, question: str | None = None, answer: str | None = None) -> Guess:
    """What the benchmark ``PATH`` or ``ADAPTER=PATH`` is.

    Every adapter is tried by reading all rows with it. ``question`` and ``answer`` name columns,
    which only `apbmm_answer` can be told. Raises `UsageError` where none fits, `ColumnsError`
    where other columns might.
    """
    if not given:
        raise UsageError("a benchmark is needed", "a folder or a data file with questions")
    adapter, named, place = given.rpartition("=")
    path = Path(place).expanduser().absolute()
    if not path.exists() and named:  # a path with = in it
        adapter, path = "", Path(given).expanduser().absolute()
    if not path.exists():
        raise UsageError(
            f"{path}: no such folder or file",
            meant(Path(place).expanduser())
            or "name a folder or a data file with questions; nothing is downloaded",
        )
    named_columns = question is not None or answer is not None
    if adapter and adapter != ANSWER_ADAPTER:
        if named_columns:
            raise UsageError(
                f"--question and --answer name columns for {ANSWER_ADAPTER}, not for {adapter}",
                f"leave them out, or {ANSWER_ADAPTER}={place}",
            )
        if not is_known_adapter(adapter):
            raise UsageError(
                unknown_adapter(adapter), "without ADAPTER= the adapter is chosen by the rows"
            )
        try:
            return _read(path, adapter, "as named")
        except SourceError as error:
            raise UsageError(error.message.removeprefix(UNNAMED), error.hint) from error
    if adapter != ANSWER_ADAPTER and not named_columns and (known := next(_known(path), None)):
        return known
    if not adapter:
        _require_no_choices(path)
    return _own_questions(
        path,
        QUESTION_COLUMNS if question is None else (question,),
        ANSWER_COLUMNS if answer is None else (answer,),
    )


def _known(path: Path) -> Iterator[Guess]:
    """Benchmarks whose columns and answers are those of an adapter of EvalScope."""
    tries: list[tuple[str, str, Mapping[str, Any]]] = [
        ("gpqa_diamond", "columns Question, Correct Answer, Incorrect Answer 1 to 3", {}),
        ("math_500", "columns problem, answer, level", {}),
        (_aime(path), "column problem, and answers that are whole numbers", {}),
        ("gsm8k", "answers end with ####", {}),
        ("gsm8k", "answers end with ####; there are no worked examples", {"few_shot_num": 0}),
        (CHOICES, "columns question, A, B, ..., answer", {"few_shot_num": 0}),
    ]
    for adapter, reason, arguments in tries:
        try:
            found = _read(path, adapter, reason, arguments)
            if adapter != "gsm8k" or _ends_with_number_signs(path):
                yield found
        except SourceError:
            continue


def _aime(path: Path) -> str:
    year = next((name for name in AIME if name in f"{path.parent.name}/{path.name}".lower()), None)
    return year or "aime25"


def _ends_with_number_signs(path: Path) -> bool:
    """Whether the answers are those of gsm8k, which give the reasoning before the number."""
    selection = _selected(path, ANSWER_ADAPTER, {"extract": "exact"})
    return all("####" in str(record["answer"]) for record in selection.records)


def _require_no_choices(path: Path) -> None:
    """Raise `UsageError` for columns of choices, which questions of one's own leave out."""
    with suppress(SourceError):  # what cannot be read is told by its own error
        columns = columns_of(_section(path, ANSWER_ADAPTER, {"extract": "exact"}), path)
        if not {"A", "B"} <= set(columns):
            return
        why = f"{path}: its question or answer has another name"
        try:
            _selected(path, CHOICES, {"few_shot_num": 0})
        except SourceError as error:
            why = error.message.removeprefix(UNNAMED)
        raise UsageError(
            f"the choices A, B, ... would not be asked, as {CHOICES} does not read them: {why}",
            f"columns question, A, B, ... and answer, which is a letter, suit {CHOICES}; "
            f"{ANSWER_ADAPTER}=PATH asks the questions without their choices",
        )


def _own_questions(path: Path, questions: Sequence[str], answers: Sequence[str]) -> Guess:
    """Questions and answers in the first of these columns that the rows have."""
    first: SourceError | None = None
    for question in questions:
        for answer in answers:
            columns = {"question": question, "answer": answer}
            own = {key: column for key, column in columns.items() if key != column}
            try:
                found = _selected(path, ANSWER_ADAPTER, {**own, "extract": "exact"})
            except SourceError as error:
                first = first or error
                continue
            rule, kind = _rule([str(record["answer"]).strip() for record in found.records])
            reason = f"columns {question} and {answer}; {kind}"
            return _read(path, ANSWER_ADAPTER, reason, {**own, **rule})
    assert first is not None
    raise _misfit(path, first, {"question": questions, "answer": answers})


def _misfit(path: Path, error: SourceError, known: Mapping[str, Sequence[str]]) -> UsageError:
    """Why no adapter fits; ``known`` has the columns that were looked for, by their role."""
    why = error.message.removeprefix(UNNAMED)
    message = f"no adapter fits: {why}" if str(path) in why else f"{path}: no adapter fits: {why}"
    hint = error.hint
    columns: Sequence[str] = ()
    with suppress(SourceError):  # the message says what cannot be read
        columns = columns_of(_section(path, ANSWER_ADAPTER, {"extract": "exact"}), path)
    missing = [role for role, names in known.items() if not set(names) & set(columns)]
    if columns and missing:
        hint = (
            "--question COLUMN --answer COLUMN name its columns; ADAPTER=PATH names an adapter of "
            "EvalScope"
        )
        # A column that was named, and not those that are tried without a name.
        close = {
            role: get_close_matches(known[role][0], columns, 1)
            for role in missing
            if len(known[role]) == 1
        }
        flags = [f"--{role} {shlex.quote(near[0])}" for role, near in close.items() if near]
        if flags:
            hint = f"did you mean {' '.join(flags)}?"
        return ColumnsError(message, hint, columns, missing)
    return UsageError(message, hint)


def _rule(answers: Collection[str]) -> tuple[dict[str, str], str]:
    """How answers of this kind are found in a text, and what they are."""
    if all(answer in LETTERS for answer in answers):
        return {"extract": "letter"}, "answers are letters"
    if all(NUMBER.fullmatch(answer) for answer in answers):
        return {"extract": "boxed", "compare": "number", "template": BOXED}, "answers are numbers"
    if sum(bool(MATHEMATICS.search(answer)) for answer in answers) * 2 > len(answers):
        return {"extract": "boxed", "template": BOXED}, "answers are mathematics"
    return {"extract": "boxed", "compare": "text", "template": BOXED}, "answers are texts"


def without_box(found: Guess) -> Guess:
    """The same benchmark for models that cannot read the request for a box: none is asked for."""
    if found.arguments.get("template") != BOXED:
        return found
    kept = {key: value for key, value in found.arguments.items() if key != "template"}
    rule = "last_number" if kept.get("compare") == "number" else "exact"
    # Without a comparison of its own a boxed answer is compared as an expression.
    compare = kept.get("compare", "expression")
    arguments = {**kept, "extract": rule, "compare": compare, "template": "{question}"}
    comment = (
        "The tokenizer does not know the words that ask for an answer in \\boxed{}: the question "
        "stands alone."
    )
    return replace(found, arguments=arguments, comment=comment)


def _read(
    path: Path, adapter: str, reason: str, arguments: Mapping[str, Any] | None = None
) -> Guess:
    selection = _selected(path, adapter, arguments or {})
    questions = None if selection.positions is None else len(selection.records)
    longest = max((_characters(record) for record in selection.records), default=0)
    return Guess(path, adapter, reason, arguments or {}, questions, longest)


def _selected(path: Path, adapter: str, arguments: Mapping[str, Any]) -> Selection:
    return select_questions(_section(path, adapter, arguments), path)


def _section(path: Path, adapter: str, arguments: Mapping[str, Any]) -> BenchmarkSection:
    return BenchmarkSection(
        name=GUESSED, adapter=adapter, path=str(path), arguments=dict(arguments)
    )


def _characters(record: Mapping[str, Any]) -> int:
    return sum(len(value) for value in record.values() if isinstance(value, str))
