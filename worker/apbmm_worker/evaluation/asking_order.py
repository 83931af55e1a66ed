"""The order in which a run asks its questions: random, and stratified by benchmark.

An evaluation that ends early has answered a prefix of this order, whatever its questions' length or
difficulty: a random sample of each benchmark, in proportion to the benchmarks' sizes.

Where all questions are to be answered, those whose answers are expected to be long may come first
instead (`AnswerLengths`). An engine that cannot hold all of them then has none left that begins
late and that it generates alone. That order depends on other merges' answers alone, so an
evaluation that is stopped in it still tells what the model of the outcomes needs.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from apbmm_worker.evaluation.cut_off import CutOff

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """A part of an evaluation: the first ``upto`` answers of the asking order (0: all of them).

    It ends when ``enough`` of these are answered (0: all), or when its ``cut_off`` is asked for.
    ``longest_first``: the questions whose answers were longest may be asked first.
    """

    upto: int = 0
    enough: int = 0
    cut_off: CutOff | None = field(default=None, compare=False)
    longest_first: bool = False

    def asked(self, order: Sequence[T]) -> list[T]:
        """The questions that are asked, of all in their order."""
        return list(order[: self.upto or len(order)])

    def needed(self, asked: int) -> int:
        """How many of the ``asked`` questions have to be answered."""
        return min(self.enough or asked, asked)


EVERYTHING = Step()


class AnswerLengths:
    """How long the answers to each question were, over the merges that have answered it."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[int, float]] = {}

    def learn(self, tokens: Mapping[int, int]) -> None:
        """Take the tokens of one merge's answers, by the questions' numbers."""
        for number, length in tokens.items():
            count, total = self._found.get(number, (0, 0.0))
            self._found[number] = count + 1, total + math.log1p(length)

    def longest_first(self, order: Sequence[int]) -> list[int]:
        """The same questions by the mean logarithm of their answers' tokens, the largest first.

        Questions that no merge has answered come before all others. Equal ones keep their order.
        """

        def expected(number: int) -> float:
            count, total = self._found.get(number, (0, 0.0))
            return total / count if count else math.inf

        return sorted(order, key=expected, reverse=True)


def asking_order(sizes: Mapping[str, int], seed: int) -> list[int]:
    """Numbers of all questions, in the order in which they are asked.

    Questions are numbered from 0 through all benchmarks, in the order of ``sizes``, which has the
    number of questions of each benchmark by its name. The order within a benchmark is that of the
    SHA-256 of seed, name and question, so it depends on no other benchmark. Among the first n
    questions of N, a benchmark with s questions has more than ``n s / N - 1`` and fewer than
    ``n s / N + 1``: its question i is asked in the window from ``floor(i N / s)`` to
    ``ceil((i + 1) N / s)``, the earliest end first (Baruah et al. 1996, proportionate progress).
    """
    total = sum(sizes.values())
    windows: list[tuple[int, int, int]] = []
    first = 0
    for name, size in sizes.items():
        shuffled = sorted(range(size), key=lambda question: _draw(seed, name, question))
        windows += [
            (i * total // size, -(-(i + 1) * total // size), first + question)
            for i, question in enumerate(shuffled)
        ]
        first += size
    windows.sort()
    order: list[int] = []
    open_windows: list[tuple[int, int]] = []
    waiting = iter(windows)
    window = next(waiting, None)
    for position in range(total):
        while window is not None and window[0] <= position:
            heapq.heappush(open_windows, window[1:])
            window = next(waiting, None)
        order.append(heapq.heappop(open_windows)[1])
    return order


def _draw(seed: int, name: str, question: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}:{question}".encode()).digest()
