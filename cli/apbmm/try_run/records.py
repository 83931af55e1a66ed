"""The questions that were tried, with what EvalScope recorded about them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from apbmm.answers.records import RecordedAnswer, recorded_answers
from apbmm.questions.messages import RenderedQuestion
from apbmm_common.errors import ApbmmError


class TriedQuestion(NamedTuple):
    """A question as the model saw it, and its answer."""

    asked: RenderedQuestion
    recorded: RecordedAnswer


def tried_questions(
    folder: Path, adapter: str, questions: Iterable[RenderedQuestion]
) -> tuple[TriedQuestion, ...]:
    """The ``questions`` with what EvalScope recorded in ``folder`` about them.

    Raises `ApbmmError` where a record is missing or cannot be read.
    """
    recorded = recorded_answers(folder, adapter)
    try:
        return tuple(TriedQuestion(each, recorded[each.subset, each.index]) for each in questions)
    except KeyError as error:
        raise ApbmmError(
            f"EvalScope's records for {adapter} cannot be read: {error} is missing",
            "the installed version of EvalScope may differ from the one that apbmm asks for",
        ) from error
