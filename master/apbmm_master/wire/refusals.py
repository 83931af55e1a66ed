"""What a master refused, and why: counted for status, logged once for each reason."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Literal

from apbmm_common.errors import WireError

log = logging.getLogger(__name__)

Kind = Literal["frames", "versions", "keys", "connections"]
KINDS: tuple[Kind, ...] = ("frames", "versions", "keys", "connections")
"""No message; another protocol; a key that is not allowed (as that); no connection came about."""
REMEMBERED = 1000
"""Different reasons that are logged, and connections whose worker's name is kept."""


class NotAllowedError(WireError):
    """A message that its sender's key does not allow."""


class Refusals:
    """Counts by kind; ``last`` is the latest reason. A flood of refusals is not a flood of logs."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last = ""
        self._logged: set[str] = set()

    def note(self, kind: Kind, reason: str, hint: str = "") -> None:
        """Count one."""
        self.counts[kind] += 1
        self.last = reason
        if reason not in self._logged and len(self._logged) < REMEMBERED:
            self._logged.add(reason)
            log.warning("refused: %s%s", reason, f" (hint: {hint})" if hint else "")

    def as_status(self) -> dict[str, Any]:
        """Part of the status snapshot."""
        counts = {f"refused_{kind}": self.counts[kind] for kind in KINDS}
        return {**counts, "last_refusal": self.last}
