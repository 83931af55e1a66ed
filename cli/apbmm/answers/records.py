"""What EvalScope recorded about the answers of one evaluation, from its files.

It writes one row for an answer into ``predictions/MODEL/ADAPTER_SUBSET.jsonl`` and one row for its
score into the file of that name in ``reviews``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apbmm_common.errors import ApbmmError

Place = tuple[str, int]
"""EvalScope's place of a question: its subset, and its index in the subset."""


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """An answer and its score.

    ``question`` is the id that the data gives the question, "" where it gives none. ``asked`` is
    the text of the user's last message; ``answer`` is everything that the model generated,
    ``tokens`` tokens. ``extracted`` is the answer that EvalScope found in it, and ``well_formed``
    is None where the benchmark does not say. ``scores`` has all scores by EvalScope's names,
    ``score`` the primary one.
    """

    question: str
    asked: str
    answer: str
    tokens: int
    truncated: bool
    well_formed: bool | None
    extracted: str
    target: str
    score: float
    scores: dict[str, float]


def recorded_answers(folder: Path, adapter: str) -> dict[Place, RecordedAnswer]:
    """The answers to a benchmark that EvalScope recorded in ``folder``, by their places.

    Raises `ApbmmError` where a record is missing or cannot be read.
    """
    try:
        predictions = _rows(folder / "predictions", adapter)
        reviews = _rows(folder / "reviews", adapter)
        return {
            place: _recorded(prediction, reviews[place])
            for place, prediction in sorted(predictions.items())
        }
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


def _recorded(prediction: Mapping[str, Any], review: Mapping[str, Any]) -> RecordedAnswer:
    output = prediction["model_output"]
    choice = output["choices"][0]
    sample = review["sample_score"]
    score = sample["score"]
    extracted = score.get("extracted_prediction")
    asked = [m for m in prediction.get("messages") or () if m.get("role") == "user"]
    question = (sample.get("sample_metadata") or {}).get("question_id")
    return RecordedAnswer(
        question="" if question is None else str(question),
        asked=_text(asked[-1]["content"]) if asked else "",
        answer=_text(choice["message"]["content"]),
        tokens=int(output["usage"]["output_tokens"]),
        truncated=choice["stop_reason"] == "max_tokens",
        well_formed=(score.get("metadata") or {}).get("well_formed"),
        extracted="" if extracted is None else str(extracted),
        target=_target(review.get("target")),
        score=float(score["value"][score.get("main_score_name") or next(iter(score["value"]))]),
        scores={name: float(value) for name, value in score["value"].items()},
    )


def _text(content: Any) -> str:
    """The text of a message, which may be in parts: a thought, and what follows it."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or part.get("reasoning") or "" for part in content)


def _target(target: Any) -> str:
    """The right answer; several that are all right are joined."""
    return " | ".join(map(str, target)) if isinstance(target, list) else str(target or "")
