"""What EvalScope wrote, turned into numbers that have been checked.

EvalScope leaves out what it could not score, and rounds. So every question that was to be asked
must have one prediction and one usable score, and the means must agree with EvalScope's report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from apbmm_common.errors import EvaluationError
from apbmm_worker.evaluation.recorded_rows import RecordedRows, Row

# EvalScope's report rounds scores to 4 digits and token means to 6.
_SCORE_ROUNDING = 1e-4
_TOKEN_ROUNDING = 1e-5
_USABLE = "success"

Place = tuple[str, int]


@dataclass(frozen=True)
class Outcome:
    """One question: its score (0 to 1), generated tokens, and how the answer ended.

    ``well_formed`` is None for benchmarks that do not say.
    """

    question: str
    score: float
    tokens: int
    finish_reason: Literal["stop", "length"]
    well_formed: bool | None = None


@dataclass(frozen=True)
class BenchmarkResult:
    """One benchmark of one evaluation. ``malformed`` is None where well-formedness is unknown."""

    accuracy: float
    tokens: float
    questions: int
    truncated: int
    malformed: int | None
    seconds: float
    outcomes: tuple[Outcome, ...]


def summarise(outcomes: Sequence[Outcome], seconds: float) -> BenchmarkResult:
    """Means and counts over a benchmark's outcomes."""
    count = len(outcomes)
    verdicts = [o.well_formed for o in outcomes if o.well_formed is not None]
    return BenchmarkResult(
        accuracy=math.fsum(outcome.score for outcome in outcomes) / count,
        tokens=sum(outcome.tokens for outcome in outcomes) / count,
        questions=count,
        truncated=sum(outcome.finish_reason == "length" for outcome in outcomes),
        malformed=verdicts.count(False) if verdicts else None,
        seconds=seconds,
        outcomes=tuple(outcomes),
    )


def outcomes_of(
    written: RecordedRows, adapter: str, questions: Mapping[Place, str]
) -> list[Outcome]:
    """Outcomes of all ``questions``, in their order, from what EvalScope has written.

    ``questions`` maps (subset, index in the subset) to the question's id. Raises
    `EvaluationError` (infrastructure) unless there is exactly one usable outcome for each.
    """
    predictions = _by_place(written.predictions, adapter)
    reviews = _by_place(written.reviews, adapter)
    for kind, rows in (("answer", predictions), ("score", reviews)):
        if rows.keys() != questions.keys():
            missing = [questions[place] for place in questions.keys() - rows.keys()]
            raise _unusable(
                adapter,
                f"{len(rows)} of {len(questions)} questions have a {kind}; "
                f"missing: {sorted(missing)[:5]}",
            )
    return [
        _outcome(adapter, question, predictions[place], reviews[place])
        for place, question in questions.items()
    ]


def check_against_report(
    adapter: str, result: BenchmarkResult, score: Any, mean_tokens: Any
) -> None:
    """Raise `EvaluationError` unless our means are those of EvalScope's report, to its rounding."""
    pairs = (
        ("accuracy", result.accuracy, score, _SCORE_ROUNDING),
        ("mean tokens", result.tokens, mean_tokens, _TOKEN_ROUNDING),
    )
    for name, ours, theirs, rounding in pairs:
        if not isinstance(theirs, int | float) or not abs(ours - theirs) <= rounding:
            raise _unusable(adapter, f"{name} is {ours} here, but {theirs} in EvalScope's report")


def _by_place(rows: Iterable[tuple[str, Row]], adapter: str) -> dict[Place, Row]:
    """Rows by (subset, index)."""
    found: dict[Place, Row] = {}
    for subset, row in rows:
        place = (subset, int(row["index"]))
        if place in found:
            raise _unusable(adapter, f"question {place} was answered twice")
        found[place] = row
    return found


def _outcome(adapter: str, question: str, prediction: Row, review: Row) -> Outcome:
    try:
        output = prediction["model_output"]
        tokens = int(output["usage"]["output_tokens"])
        stop_reason = output["choices"][0]["stop_reason"]
        score = review["sample_score"]["score"]
        values = score["value"]
        value = float(values[score["main_score_name"] or next(iter(values))])
        status = str(getattr(score["status"], "value", score["status"]))  # may be an Enum's
    except (KeyError, TypeError, IndexError, ValueError, StopIteration) as error:
        raise _unusable(adapter, f"question {question} has no usable score: {error!r}") from error
    if status != _USABLE or output.get("error"):
        raise _unusable(adapter, f"question {question}: {status}, {output.get('error')}")
    if not 0.0 <= value <= 1.0:  # false for NaN too
        raise _unusable(adapter, f"question {question} has score {value}")
    if stop_reason not in ("stop", "max_tokens"):
        raise _unusable(adapter, f"question {question} ended with {stop_reason!r}")
    return Outcome(
        question=question,
        score=value,
        tokens=tokens,
        finish_reason="stop" if stop_reason == "stop" else "length",
        well_formed=(score.get("metadata") or {}).get("well_formed"),
    )


def _unusable(adapter: str, reason: str) -> EvaluationError:
    return EvaluationError(
        f"EvalScope's results for {adapter} cannot be used: {reason}",
        "EvalScope's own output is kept in the worker's scratch folder",
        kind="infrastructure",
    )
