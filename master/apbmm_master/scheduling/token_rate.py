"""How many tokens a second the engines of a run generate, by the answers that arrive."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from apbmm_common.protocol.answers import token_count
from apbmm_common.protocol.messages import Answers

LONGEST_SECONDS = 1800
"""What is older is forgotten."""


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
        self._last: dict[str, int] = {}
        """By lease: how many of its entries have been counted, as messages are repeated."""

    def take(self, message: Answers) -> None:
        """Count the answers of a message, unless it repeats one."""
        if message.upto <= self._last.get(message.lease, 0):
            return
        self._last[message.lease] = message.upto
        self.add(sum(map(token_count, message.answers)))

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
