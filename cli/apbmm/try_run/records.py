"""What EvalScope recorded about the questions of one evaluation, from its files.

It writes one row for an answer into ``predictions/MODEL/ADAPTER_SUBSET.jsonl`` and one row for its
score into the file of that name in ``reviews``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apbmm.questions.messages import RenderedQuestion
from apbmm_common.errors import ApbmmError

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class TriedQuestion:
    """A question, its answer and its score.

    ``prompt`` is what the model was given, ``prompt_tokens`` its length; ``answer`` is everything
    that it generated, ``tokens`` tokens. ``extracted`` is the answer that EvalScope found in it,
    and ``well_formed`` is None where the benchmark does not say. ``scores`` has all scores by
    EvalScope's names, ``score`` the primary one.
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
    try:
        predictions = _rows(folder / "predictions", adapter)
        reviews = _rows(folder / "reviews", adapter)
        return tuple(
            _tried(question, predictions[place], reviews[place])
            for question in questions
            for place in [(question.subset, question.index)]
        )
    except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
        raise ApbmmError(
            f"EvalScope's records for {adapter} cannot be read: {type(error).__name__}: {error}",
            "the installed version of EvalScope may differ from the one that apbmm asks for",
        ) from error


def _rows(folder: Path, adapter: str) -> dict[Place, Mapping[str, Any]]:
    rows = {}
    for file in folder.glob("*/*.jsonl"):
        subset = file.stem.removeprefix(f"{adapter}_")
        with file.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                rows[subset, int(row["index"])] = row
    return rows


def _tried(
    question: RenderedQuestion, prediction: Mapping[str, Any], review: Mapping[str, Any]
) -> TriedQuestion:
    output = prediction["model_output"]
    choice = output["choices"][0]
    score = review["sample_score"]["score"]
    extracted = score.get("extracted_prediction")
    return TriedQuestion(
        question=question.question,
        prompt=question.prompt,
        prompt_tokens=question.tokens,
        answer=_text(choice["message"]["content"]),
        tokens=int(output["usage"]["output_tokens"]),
        truncated=choice["stop_reason"] == "max_tokens",
        well_formed=(score.get("metadata") or {}).get("well_formed"),
        extracted="" if extracted is None else str(extracted),
        target=question.target,
        score=float(score["value"][score.get("main_score_name") or next(iter(score["value"]))]),
        scores={name: float(value) for name, value in score["value"].items()},
    )


def _text(content: Any) -> str:
    """The text of a message, which may be in parts: a thought, and what follows it."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or part.get("reasoning") or "" for part in content)
