"""Merges that have answered a first step, as events and bodies of results."""

from __future__ import annotations

from typing import Any

from apbmm_common.protocol.messages import BenchmarkPart, BenchmarkResult, Evaluated, Stepped
from apbmm_master.journal.events import BenchmarkEstimates, Estimated, Paused

QUESTIONS = 10


def part(answered: int = 2, cut: int = 1, score: float = 1.0, tokens: int = 100) -> BenchmarkPart:
    """Of the questions 0 to 9 so many answers, each with ``score`` and ``tokens``; then cut ones,
    with half of these tokens each."""
    return BenchmarkPart(
        questions=QUESTIONS,
        answered=answered,
        tokens=answered * tokens + cut * (tokens // 2),
        outcomes=tuple((str(i), score, tokens, "stop") for i in range(answered)),
        cut=tuple((str(answered + i), tokens // 2) for i in range(cut)),
    )


def stepped(name: str = "sums", **changes: Any) -> Stepped:
    """The body of a result that has `part` of one benchmark."""
    return Stepped(benchmarks={name: part(**changes)})


def paused(evaluation: str, attempt: int = 1, **changes: Any) -> Paused:
    """The event that an evaluation has answered its first step, with `part` of ``sums``."""
    body = stepped(**changes)
    scores = sum(score for _, score, _, _ in body.benchmarks["sums"].outcomes)
    return Paused(
        evaluation=evaluation, attempt=attempt, lease=f"{evaluation}.{attempt}", worker="a",
        seconds=1.0, digest="d", body=body, scores={"sums": scores},
    )  # fmt: skip


def estimate(
    accuracy: tuple[float, float] = (0.6, 0.01), tokens: tuple[float, float] = (100.0, 25.0)
) -> BenchmarkEstimates:
    """Means and variances of the one benchmark."""
    return {"sums": {"accuracy": accuracy, "tokens": tokens}}


def estimated(*evaluations: str, **changes: Any) -> Estimated:
    """The event that evaluations are estimated, all alike."""
    return Estimated(estimates={name: estimate(**changes) for name in evaluations})


def whole(accuracy: float, tokens: float) -> Evaluated:
    """The body of a result of all questions."""
    result = BenchmarkResult(
        metrics={"accuracy": accuracy, "tokens": tokens},
        questions=QUESTIONS,
        outcomes=tuple(
            (str(i), float(i < accuracy * QUESTIONS), int(tokens), "stop") for i in range(QUESTIONS)
        ),
    )
    return Evaluated(benchmarks={"sums": result})
