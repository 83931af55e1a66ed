"""What a run has paid for so far, kept as its events come in; see `cost` for what it is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from apbmm_common.protocol.messages import Evaluated, Measured
from apbmm_master.journal.lifecycle import AttemptState
from apbmm_master.journal.state.evaluations import Attempt, Evaluation, FirstStep

Pauses = Sequence[tuple[float, float]]
"""Spans without a master in Unix seconds, in their order."""


def seconds_with_master(begin: float, end: float, pauses: Pauses) -> float:
    """Seconds from ``begin`` to ``end`` that lie in none of ``pauses``."""
    seconds = end - begin
    for start, stop in reversed(pauses):
        if stop <= begin:
            break
        seconds -= max(0.0, min(end, stop) - max(begin, start))
    return max(0.0, seconds)


def tokens_of(body: Evaluated | Measured | None) -> float:
    """Tokens of all answers of a result; 0 without one."""
    if not isinstance(body, Evaluated):
        return 0.0
    return math.fsum(
        result.metrics.get("tokens", 0.0) * result.answers for result in body.benchmarks.values()
    )


def gpu_seconds_of_result(evaluation: Evaluation) -> float:
    """What an evaluation's result has taken: the GPU-seconds of the attempt that delivered it.

    Those before count as well, if that one went on from their answers. Without a result it is the
    last attempt that paused; 0 without that too.
    """
    last = {attempt.state: number for number, attempt in enumerate(evaluation.attempts)}
    delivered = last.get(AttemptState.DONE, last.get(AttemptState.PAUSED))
    if delivered is None:
        return 0.0
    begin = 0 if evaluation.attempts[delivered].kept else delivered
    return math.fsum(a.gpu_seconds for a in evaluation.attempts[begin : delivered + 1])


@dataclass(slots=True)
class Delivered:
    """Results: how many, their GPU-seconds (`gpu_seconds_of_result`), and their tokens."""

    count: int = 0
    gpu_seconds: float = 0.0
    tokens: float = 0.0

    def add(self, gpu_seconds: float, tokens: float) -> None:
        """Count one more result."""
        self.count += 1
        self.gpu_seconds += gpu_seconds
        self.tokens += tokens


@dataclass
class Spending:
    """What has been paid for.

    - ``gpu_seconds``: of all attempts that have ended, whatever came of them;
    - ``tokens``: of all results, and of the first steps of merges without a result;
    - ``answers_in_part``: the scored answers of these merges, one at least of each;
    - ``merges``, ``references``: the results of those in the budget, and of the references;
    - ``learnt``: results of an earlier run, at what they cost there on one card; nothing of it is
      paid by this run.
    """

    gpu_seconds: float = 0.0
    tokens: float = 0.0
    answers_in_part: int = 0
    merges: Delivered = field(default_factory=Delivered)
    references: Delivered = field(default_factory=Delivered)
    learnt: Delivered = field(default_factory=Delivered)

    @property
    def typical(self) -> Delivered:
        """The results that the cost of the next evaluation is expected from.

        Those of merges, while there are none those of the references, and else what was learnt.
        """
        known = (self.merges, self.references, self.learnt)
        return next((results for results in known if results.count), self.learnt)

    def attempt_ended(
        self, attempt: Attempt, time: float, cards: int, pauses: Pauses, worked: float = 0.0
    ) -> None:
        """Count an attempt that ends at ``time``, and note its cost and its end in it.

        ``worked``: seconds that its result says its worker worked. They count where they are more
        than the seconds with a master, as when the worker went on without one. Of an attempt that
        had been given up and delivers all the same, only they count. One whose answers were
        complete before costs nothing from there on.
        """
        before = 0.0 if attempt.ended_at is None else attempt.gpu_seconds
        if attempt.answered_at is None:
            attempt.gpu_seconds = max(before, _cost(attempt, time, cards, pauses, worked))
        attempt.ended_at = time
        self.gpu_seconds += attempt.gpu_seconds - before

    def paused(self, step: FirstStep, before: FirstStep | None = None) -> None:
        """Count what a merge has answered in its first step, or in place of what it had before."""
        self.tokens += step.tokens - (before.tokens if before else 0)
        self.answers_in_part += step.counted - (before.counted if before else 0)

    def delivered(self, evaluation: Evaluation) -> None:
        """Count the result of an evaluation, in place of its first step."""
        tokens = tokens_of(evaluation.body)
        self.tokens += tokens
        if evaluation.step is not None:
            self.tokens -= evaluation.step.tokens
            self.answers_in_part -= evaluation.step.counted
        if evaluation.purpose != "measure":
            group = self.merges if evaluation.in_budget else self.references
            group.add(gpu_seconds_of_result(evaluation), tokens)


def answers_complete(
    attempt: Attempt, time: float, cards: int, pauses: Pauses, worked: float
) -> None:
    """Note in an attempt that its engine is free at ``time``, and what it costs."""
    attempt.gpu_seconds = _cost(attempt, time, cards, pauses, worked)
    attempt.answered_at = time


def _cost(attempt: Attempt, time: float, cards: int, pauses: Pauses, worked: float) -> float:
    """GPU-seconds up to ``time``; ``worked`` as in `Spending.attempt_ended`."""
    worked = min(worked, time - attempt.leased_at)
    if attempt.ended_at is None:
        worked = max(worked, seconds_with_master(attempt.leased_at, time, pauses))
    return cards * worked
