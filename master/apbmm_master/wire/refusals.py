"""Counts what a master refused, for its status, and logs each reason once."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Literal

from apbmm_common.errors import WireError

log = logging.getLogger(__name__)

Kind = Literal["frames", "versions", "keys", "connections"]
KINDS: tuple[Kind, ...] = ("frames", "versions", "keys", "connections")
"""``frames``: not a valid message. ``versions``: another protocol version. ``keys``: a message
whose key is not allowed (any more, or under that name). ``connections``: a failed handshake."""
REMEMBERED = 1000
"""At most so many different reasons are logged, and so many connections' worker names kept."""


class NotAllowedError(WireError):
    """A message that its sender's key does not allow."""


class Refusals:
    """Counts by kind; ``last`` is the latest reason. Repeated reasons are not logged again."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last = ""
        self._logged: set[str] = set()

    def note(self, kind: Kind, reason: str, hint: str = "") -> None:
        """Count one refusal."""
        self.counts[kind] += 1
        self.last = reason
        if reason not in self._logged and len(self._logged) < REMEMBERED:
            self._logged.add(reason)
            log.warning("refused: %s%s", reason, f" (hint: {hint})" if hint else "")

    def as_status(self) -> dict[str, Any]:
        """The counts as the status snapshot has them."""
        counts = {f"refused_{kind}": self.counts[kind] for kind in KINDS}
        return {**counts, "last_refusal": self.last}
