"""How fast an engine answers, and how long many answers take it.

In each of its steps an engine computes one token for every answer that is in progress. A step takes
a part of its own and a part for each answer; on a card the first is the larger one, so that answers
beside each other hardly slow each other down, on a CPU the second.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NONE = 1e-6
"""A part of a step of at most so much of the other one is none."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """One of several answers that were begun at the same time: ``seconds`` to its last token."""

    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a step: ``step`` and, for each answer in progress, ``each``.

    ``first``: seconds from the beginning to the first token, for each answer that begins.
    """

    first: float
    step: float
    each: float

    def of_step(self, answers: int) -> float:
        """Seconds of one step with so many answers in progress."""
        return self.step + self.each * answers

    @property
    def is_told_apart(self) -> bool:
        """Whether the answers told the step's own part from that of each answer.

        Where one of them is 0, it is the bound of the fit, and a step with far fewer answers than
        were measured is not known.
        """
        return min(self.step, self.each) > NONE * max(self.step, self.each)

    def tokens_a_second(self, answers: int) -> float:
        """Tokens a second with so many answers in progress."""
        seconds = self.of_step(answers)
        return answers / seconds if seconds > 0 else 0.0


def fit(batches: Sequence[Sequence[TimedAnswer]]) -> Speed:
    """The speed that fits batches of answers best, by least squares; no part is negative.

    The answers of a batch were all in progress from the beginning: the engine's limit of answers at
    once was not reached. Raises `ValueError` without a token.
    """
    rows = [row for batch in batches for row in _rows(batch)]
    if not any(step for _, step, _, _ in rows):
        raise ValueError("no token was generated")
    table = np.array(rows, dtype=np.float64)
    first, step, each = _nonnegative(table[:, :3], table[:, 3])
    return Speed(first, step, each)


def _rows(batch: Sequence[TimedAnswer]) -> Iterator[tuple[float, float, float, float]]:
    """For each answer: beginnings, steps, answers computed in them, and its seconds."""
    computed, last = 0.0, 0
    for ended, answer in enumerate(sorted(batch, key=lambda one: (one.tokens, one.seconds))):
        computed += (answer.tokens - last) * (len(batch) - ended)
        last = answer.tokens
        yield float(len(batch)), float(answer.tokens), computed, answer.seconds


def _nonnegative(table: Floats, seconds: Floats) -> tuple[float, float, float]:
    """The least squares without negative parts: the best of all choices of parts that are 0."""
    best, least = (0.0, 0.0, 0.0), np.inf
    for chosen in itertools.product((False, True), repeat=3):
        columns = [number for number, taken in enumerate(chosen) if taken]
        if not columns:
            continue
        found, *_ = np.linalg.lstsq(table[:, columns], seconds, rcond=None)
        error = float(((table[:, columns] @ found - seconds) ** 2).sum())
        if (found >= 0).all() and error < least:
            values = dict(zip(columns, map(float, found), strict=True))
            best, least = (values.get(0, 0.0), values.get(1, 0.0), values.get(2, 0.0)), error
    return best


def seconds_for(
    lengths: Iterable[int], first: float, of_step: Callable[[int], float], at_once: int
) -> float:
    """Seconds for answers of these lengths, in this order, ``at_once`` of them at most.

    The next answer begins as soon as one has ended. ``of_step``: seconds of a step with so many
    answers in progress; ``first`` as in `Speed`.
    """
    waiting = iter(lengths)
    seconds, step = 0.0, 0
    ends: list[int] = []
    while True:
        for length in itertools.islice(waiting, at_once - len(ends)):
            heapq.heappush(ends, step + length)
            seconds += first
        if not ends:
            return seconds
        end = ends[0]
        seconds += (end - step) * of_step(len(ends))
        step = end
        while ends and ends[0] == step:
            heapq.heappop(ends)
