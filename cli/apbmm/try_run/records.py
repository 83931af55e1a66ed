"""The questions that were tried, with what EvalScope recorded about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from apbmm.answers.records import RecordedAnswer, recorded_answers
from apbmm.questions.messages import RenderedQuestion
from apbmm_common.errors import ApbmmError


@dataclass(frozen=True, slots=True)
class TriedQuestion:
    """A question, its answer and its score.

    ``prompt`` is what the model was given, ``prompt_tokens`` its length. The rest is as in
    `RecordedAnswer`.
    """

    question: str
    prompt: str
    prompt_tokens: int
    answer: str
    tokens: int
    truncated: bool
    well_formed: bool | None
    extracted: str
    target: str
    score: float
    scores: dict[str, float]


def tried_questions(
    folder: Path, adapter: str, questions: Iterable[RenderedQuestion]
) -> tuple[TriedQuestion, ...]:
    """The ``questions`` with what EvalScope recorded in ``folder`` about them.

    Raises `ApbmmError` where a record is missing or cannot be read.
    """
    recorded = recorded_answers(folder, adapter)
    try:
        return tuple(_tried(each, recorded[each.subset, each.index]) for each in questions)
    except KeyError as error:
        raise ApbmmError(
            f"EvalScope's records for {adapter} cannot be read: {error} is missing",
            "the installed version of EvalScope may differ from the one that apbmm asks for",
        ) from error


def _tried(question: RenderedQuestion, recorded: RecordedAnswer) -> TriedQuestion:
    return TriedQuestion(
        question=question.question,
        prompt=question.prompt,
        prompt_tokens=question.tokens,
        answer=recorded.answer,
        tokens=recorded.tokens,
        truncated=recorded.truncated,
        well_formed=recorded.well_formed,
        extracted=recorded.extracted,
        target=question.target,
        score=recorded.score,
        scores=recorded.scores,
    )
