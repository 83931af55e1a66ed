"""What `apbmm answers` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from apbmm.answers.side_by_side import Answer, AnsweredQuestion
from apbmm.results.json_form import run_as_json
from apbmm.results.run_results import RunResults

SCHEMA = 1


def answers_as_json(
    results: RunResults, evaluations: Sequence[str], questions: Sequence[AnsweredQuestion]
) -> dict[str, Any]:
    """The answers as a JSON object; keys are only ever added within a schema."""
    return {
        "schema": SCHEMA,
        **run_as_json(results),
        "evaluations": list(evaluations),
        "questions": [question_as_json(question) for question in questions],
    }


def question_as_json(question: AnsweredQuestion) -> dict[str, Any]:
    """One question with the answers to it; a text that was not found is null."""
    return {
        "benchmark": question.benchmark,
        "question": question.question,
        "answer": question.answer_id,
        "asked": question.asked or None,
        "target": question.target or None,
        "answers": {name: _as_json(answer) for name, answer in question.answers.items()},
    }


def _as_json(answer: Answer) -> dict[str, Any]:
    recorded = answer.recorded
    return {
        "score": answer.outcome.score,
        "tokens": answer.outcome.tokens,
        "finish_reason": answer.outcome.finish_reason,
        "answer": recorded.answer if recorded else None,
        "extracted": recorded.extracted if recorded else None,
        "well_formed": recorded.well_formed if recorded else None,
    }


def print_list(
    screen: Console, evaluations: Sequence[str], questions: Sequence[AnsweredQuestion]
) -> None:
    """A row for each answer; of two evaluations, the questions whose scores differ."""
    shown = questions if len(evaluations) == 1 else [q for q in questions if q.differs]
    table = Table(box=SIMPLE_HEAD, padding=(0, 2, 0, 0))
    table.add_column("question", overflow="fold")
    for name in evaluations:
        table.add_column(f"{name}\nscore", justify="right")
        table.add_column("\ntokens", justify="right")
    for question in shown:
        cells = [cell for name in evaluations for cell in _cells(question.answers[name])]
        table.add_row(f"{question.benchmark}/{question.answer_id}", *cells)
    if shown:
        screen.print(table)
    for line in _counts(evaluations, questions):
        screen.print(line, markup=False)


def _cells(answer: Answer) -> tuple[str, str]:
    cut = " (cut)" if answer.outcome.finish_reason == "length" else ""
    return f"{answer.outcome.score:g}", f"{answer.outcome.tokens}{cut}"


def _counts(evaluations: Sequence[str], questions: Sequence[AnsweredQuestion]) -> Iterator[str]:
    if len(evaluations) == 1:
        yield f"{len(questions)} answers"
        return
    one, other = evaluations
    differences: dict[tuple[str, str], list[float]] = {}
    for question in questions:
        ours, theirs = (question.answers[name].outcome.score for name in evaluations)
        place = (question.benchmark, question.question)
        differences.setdefault(place, []).append(ours - theirs)
    means = [math.fsum(each) / len(each) for each in differences.values()]
    better = sum(mean > 0 for mean in means)
    worse = sum(mean < 0 for mean in means)
    yield (
        f"{len(means)} questions: {one} scores higher in {better}, {other} in {worse}, both "
        f"alike in {len(means) - better - worse}"
    )


def print_texts(screen: Console, questions: Sequence[AnsweredQuestion]) -> None:
    """The questions with their answers, those of two evaluations side by side."""
    for question in questions:
        screen.print(f"==== {question.benchmark}, question {question.answer_id}", markup=False)
        if question.asked:
            screen.print(question.asked, markup=False)
            screen.print(f"---- target: {question.target}", markup=False)
        table = Table(box=SIMPLE_HEAD, padding=(0, 2, 0, 0), expand=len(question.answers) > 1)
        cells: list[RenderableType] = []
        for name, answer in question.answers.items():
            table.add_column(_heading(name, answer), ratio=1, overflow="fold")
            cells.append(Text(answer.recorded.answer if answer.recorded else "(text not found)"))
        table.add_row(*cells)
        screen.print(table)


def _heading(name: str, answer: Answer) -> Text:
    score, tokens = _cells(answer)
    found = f", extracted {answer.recorded.extracted or 'nothing'}" if answer.recorded else ""
    return Text(f"{name}: score {score}, {tokens} tokens{found}")
