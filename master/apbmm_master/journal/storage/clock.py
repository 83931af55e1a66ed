"""The time that a run's events are stamped with."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

NOTABLE_SECONDS = 60.0


class RunClock:
    """Unix seconds that never run backwards within a journal.

    The wall clock is read once, when a master starts, and taken no earlier than ``last``, the time
    of the journal's last event. From then on the monotonic clock is added to it. So the difference
    between two events of one master is the time that passed, even if the host's clock was set
    meanwhile. The pause between two masters may be wrong if the clock was set; no figure uses it.
    """

    def __init__(self, last: float = 0.0) -> None:
        wall = time.time()
        if wall < last - NOTABLE_SECONDS:
            log.warning(
                "the clock of this host is %.0f s behind the run's last event; the run's times go "
                "on from there",
                last - wall,
            )
        self._ahead = max(wall, last) - time.monotonic()

    def now(self) -> float:
        """The time of an event that happens now."""
        return time.monotonic() + self._ahead
