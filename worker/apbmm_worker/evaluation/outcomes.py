"""EvalScope's output, turned into results that have been checked. EvalScope is not imported here.

EvalScope leaves out what it could not score, and rounds. So every question that was to be asked
must have one prediction and one usable score, and the means must agree with EvalScope's report.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apbmm_common.errors import EvaluationError
from apbmm_common.metrics import METRICS, Outcome, means, number_of, score_metric
from apbmm_common.protocol.messages import BenchmarkPart, BenchmarkResult, CutRow
from apbmm_common.repetitions import Spread, question_of, spread

log = logging.getLogger(__name__)

# EvalScope's report rounds scores to 4 digits and token means to 6.
_SCORE_ROUNDING = 1e-4
_TOKEN_ROUNDING = 1e-5
USABLE = "success"
"""EvalScope's status of a score that counts."""

ACCURACY = score_metric("accuracy")
"""A benchmark's own accuracy. Where that is its primary score, it is the metric ``accuracy``."""

Place = tuple[str, int]
"""Where EvalScope has a question: its subset, and its index in the subset."""
Rows = Sequence[tuple[str, Any]]
"""What EvalScope writes about the questions of a benchmark, with their subsets."""


@dataclass(frozen=True, slots=True)
class Report:
    """What EvalScope's report of one benchmark says.

    Attributes:
        score: its primary metric.
        tokens: mean number of generated tokens.
        means: its other means over the questions, by name.
        others: its metrics that are not means over the questions, by name.
    """

    score: Any
    tokens: Any
    means: Mapping[str, float]
    others: Mapping[str, float]


def benchmark_result(
    outcomes: Sequence[Outcome], others: Mapping[str, float] | None = None, repeats: int = 1
) -> BenchmarkResult:
    """The result of a benchmark: every metric of its outcomes, and ``others`` beside them.

    ``repeats`` is the number of answers to each question.
    """
    verdicts = [o.well_formed for o in outcomes if o.well_formed is not None]
    metrics = means(outcomes)
    return BenchmarkResult(
        metrics={**(others or {}), **metrics},
        questions=len(outcomes) // repeats,
        repeats=repeats,
        truncated=sum(outcome.finish_reason == "length" for outcome in outcomes),
        malformed=verdicts.count(False),
        outcomes=tuple((o.question, o.score, round(o.tokens), o.finish_reason) for o in outcomes),
        spreads=_spreads(outcomes, metrics, repeats) if repeats > 1 else {},
    )


def benchmark_part(
    outcomes: Sequence[Outcome], cut: Sequence[CutRow], answers: int, repeats: int = 1
) -> BenchmarkPart:
    """What a step has of a benchmark with so many ``answers`` in all."""
    rows = tuple((o.question, o.score, round(o.tokens), o.finish_reason) for o in outcomes)
    return BenchmarkPart(
        questions=answers // repeats,
        repeats=repeats,
        answered=len(rows),
        tokens=sum(row[2] for row in rows) + sum(tokens for _, tokens in cut),
        outcomes=rows,
        cut=tuple(cut),
    )


def _spreads(outcomes: Sequence[Outcome], names: Iterable[str], repeats: int) -> dict[str, Spread]:
    """The spread of every metric that all answers have."""
    by_question: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_question.setdefault(question_of(outcome.question, repeats), []).append(outcome)
    found = {}
    for name in names:
        answers = [[number_of(name, o) for o in group] for group in by_question.values()]
        known = [[number for number in group if number is not None] for group in answers]
        if all(len(group) == repeats for group in known):
            found[name] = spread(known)
    return found


def checked_result(
    adapter: str, outcomes: Sequence[Outcome], report: Report, repeats: int = 1
) -> BenchmarkResult:
    """The result of a benchmark that EvalScope has reported on.

    Raises `EvaluationError` (infrastructure) unless accuracy and tokens are those of the report, to
    its rounding. Another score that differs from the report's, or is not in it, is left out.
    """
    others = {name: value for name, value in report.others.items() if _is_number(value)}
    result = benchmark_result(outcomes, others, repeats)
    for name, theirs, rounding in (
        ("accuracy", report.score, _SCORE_ROUNDING),
        ("tokens", report.tokens, _TOKEN_ROUNDING),
    ):
        if not _agree(result.metrics[name], theirs, rounding):
            raise _unusable(
                adapter,
                f"{name} is {result.metrics[name]} here, but {theirs} in EvalScope's report",
            )
    metrics = dict(result.metrics)
    for name in metrics.keys() - METRICS.keys() - others.keys():
        theirs = report.means.get(name)
        if _agree(metrics[name], theirs, _SCORE_ROUNDING):
            continue
        ours = metrics.pop(name)
        if theirs is not None:
            log.warning(
                "%s: %s is left out: it is %s here, but EvalScope reports %s",
                adapter,
                name,
                ours,
                theirs,
            )
    spreads = {name: found for name, found in result.spreads.items() if name in metrics}
    return result.model_copy(update={"metrics": metrics, "spreads": spreads})


def _agree(ours: float, theirs: Any, rounding: float) -> bool:
    return isinstance(theirs, int | float) and abs(ours - theirs) <= rounding


def outcomes_of(
    predictions: Rows,
    reviews: Rows,
    adapter: str,
    questions: Mapping[Place, str],
    metric_name: Callable[[str], str],
) -> list[Outcome]:
    """Outcomes of all ``questions``, in their order, from the rows that EvalScope has written.

    ``predictions`` has EvalScope's `ModelResult` and ``reviews`` its `ReviewResult` of each.
    ``questions`` maps places to the questions' ids, ``metric_name`` a score's name in the rows to
    the name of the metric that is its mean. Raises `EvaluationError` (run_file) unless there is
    exactly one usable outcome for each question.
    """
    answers, scores = _by_place(predictions, adapter), _by_place(reviews, adapter)
    for kind, rows in (("answer", answers), ("score", scores)):
        if rows.keys() != questions.keys():
            missing = [questions[place] for place in questions.keys() - rows.keys()]
            raise _unusable(
                adapter,
                f"{len(rows)} of {len(questions)} questions have a {kind}; "
                f"missing: {sorted(missing)[:5]}",
            )
    return [
        outcome_of(adapter, question, answers[place], scores[place], metric_name)
        for place, question in questions.items()
    ]


def _by_place(rows: Rows, adapter: str) -> dict[Place, Any]:
    """Rows by their question's place."""
    found: dict[Place, Any] = {}
    for subset, row in rows:
        place = (subset, int(row.index))
        if place in found:
            raise _unusable(adapter, f"question {place} was answered twice")
        found[place] = row
    return found


def outcome_of(
    adapter: str, question: str, prediction: Any, review: Any, metric_name: Callable[[str], str]
) -> Outcome:
    """The outcome of one question, from EvalScope's rows: see `outcomes_of`.

    Raises `EvaluationError` (run_file) unless it is usable.
    """
    try:
        output = prediction.model_output
        tokens = int(output.usage.output_tokens)
        seconds = float(output.time)
        stop_reason = output.choices[0].stop_reason
        score = review.sample_score.score
        values = score.value
        primary_name = score.main_score_name or next(iter(values))
        primary = float(values[primary_name])
        status = score.status.value
    except (AttributeError, LookupError, TypeError, ValueError, StopIteration) as error:
        raise _unusable(adapter, f"question {question} has no usable score: {error!r}") from error
    if status != USABLE or output.error:
        raise _unusable(adapter, f"question {question}: {status}, {output.error}")
    if not 0.0 <= primary <= 1.0:  # false for NaN too
        raise _unusable(adapter, f"question {question} has score {primary}")
    if stop_reason not in ("stop", "max_tokens"):
        raise _unusable(adapter, f"question {question} ended with {stop_reason!r}")
    return Outcome(
        question=question,
        score=primary,
        tokens=tokens,
        seconds=seconds,
        finish_reason="stop" if stop_reason == "stop" else "length",
        well_formed=(score.metadata or {}).get("well_formed"),
        thought_closed=(output.metadata or {}).get("thought_closed"),
        scores={
            metric_name(name): float(value)
            for name, value in values.items()
            if _is_number(value) and not (name == primary_name and metric_name(name) == ACCURACY)
        },
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _unusable(adapter: str, reason: str) -> EvaluationError:
    return EvaluationError(
        f"EvalScope's results for {adapter} cannot be used: {reason}",
        "EvalScope's own output is kept in the worker's state folder",
        kind="run_file",
    )
