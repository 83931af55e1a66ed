"""How many tokens a second the engines of a run generate, by the answers that arrive."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from apbmm_common.protocol.answers import token_count
from apbmm_common.protocol.messages import Answers

LONGEST_SECONDS = 1800
"""What is older is forgotten."""


@dataclass(slots=True)
class _Counted:
    """What was counted of a lease: entries of its messages, which are repeated, and tokens."""

    upto: int = 0
    tokens: int = 0
    ended: bool = False


class TokenRate:
    """Counts the tokens of answers in the seconds in which they arrive.

    An answer counts when it is finished, so the rate is that of a span in which many are. ``total``
    is the number of tokens since the master began.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        self._clock = clock
        self._began = clock()
        self._seconds: deque[tuple[int, int]] = deque()
        """(second, tokens), in order."""
        self._leases: dict[str, _Counted] = {}

    def take(self, message: Answers) -> None:
        """Count the answers of a message, unless it repeats one."""
        counted = self._leases.setdefault(message.lease, _Counted())
        if counted.ended or message.upto <= counted.upto:
            return
        tokens = sum(map(token_count, message.answers))
        counted.upto, counted.tokens = message.upto, counted.tokens + tokens
        self.add(tokens)

    def end(self, lease: str, tokens: float) -> None:
        """Count those of the ``tokens`` of a lease that has ended whose answers were not sent."""
        counted = self._leases.setdefault(lease, _Counted())
        if not counted.ended:
            counted.ended = True
            self.add(max(0, round(tokens) - counted.tokens))

    def add(self, tokens: int) -> None:
        """Count tokens that have just arrived."""
        self.total += tokens
        second = int(self._clock())
        if self._seconds and self._seconds[-1][0] == second:
            tokens += self._seconds.pop()[1]
        self._seconds.append((second, tokens))
        while self._seconds[0][0] < second - LONGEST_SECONDS:
            self._seconds.popleft()

    def over(self, seconds: float) -> float:
        """Mean tokens a second over the last ``seconds``, or since the master began."""
        now = self._clock()
        begin = max(now - min(seconds, LONGEST_SECONDS), self._began)
        tokens = sum(count for second, count in self._seconds if second >= int(begin))
        return tokens / max(now - begin, 1.0)
