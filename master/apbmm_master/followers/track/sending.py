"""Sends a run to a tracker, and what the tracker lacks again when it has failed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

from apbmm_master.followers.following import followed
from apbmm_master.followers.process import Ending, Followed
from apbmm_master.followers.track.points import Points
from apbmm_master.followers.track.tracker import TrackedRun, Tracker
from apbmm_master.status.snapshot import is_rehearsal

PAUSE, LONGEST_PAUSE = 10.0, 300.0
"""Seconds after the first failure, doubled with each further one, before the next attempt."""
Open = Callable[[TrackedRun], Tracker]


class Sending:
    """The points of one run on their way to one tracker.

    The tracker itself knows what it has, so nothing is sent twice whatever ended the last attempt.
    """

    def __init__(self, opened: Open, run_dir: Path, say: Callable[[str], None]) -> None:
        self._open, self._run_dir, self._say = opened, run_dir, say
        self._points = Points()
        self._tracker: Tracker | None = None
        self._sent = 0
        self._failures = 0
        self._next_attempt = 0.0

    @property
    def points(self) -> Points:
        """What is to be sent."""
        return self._points

    def try_to_send(self) -> None:
        """Send what the tracker does not have, unless it has just failed."""
        if time.monotonic() >= self._next_attempt and self._points.run_state.spec is not None:
            self._attempt(self._send)

    def end(self, ending: Ending) -> bool:
        """Send the rest and end the run there; whether the tracker has everything."""
        return self._attempt(lambda: self._end(ending))

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises costs the run nothing
            traceback.print_exc()  # into the follower's log
            self._failed(error)
            return False
        self._failures = 0
        return True

    def _send(self) -> None:
        if self._tracker is None:
            self._tracker = self._open(self._run())
            self._sent = self._tracker.has
        for point in self._points.all[self._sent :]:
            self._tracker.send(point)
            self._sent += 1

    def _end(self, ending: Ending) -> None:
        self._send()
        assert self._tracker is not None
        self._tracker.end(ending, failed=self._points.run_state.failed)

    def _failed(self, error: Exception) -> None:
        self._tracker = None
        pause = min(PAUSE * 2**self._failures, LONGEST_PAUSE)
        self._next_attempt = time.monotonic() + pause
        if not self._failures:
            self._say(
                f"the tracker has failed, and is tried again: {type(error).__name__}: {error}"
            )
        self._failures += 1

    def _run(self) -> TrackedRun:
        run_state = self._points.run_state
        assert run_state.spec is not None
        config = run_state.spec.for_workers()
        rehearsal = is_rehearsal(run_state)
        return TrackedRun(run_state.run, self._run_dir, run_state.spec.track, config, rehearsal)


def track(run_dir: Path, opened: Open, master: Followed) -> int:
    """Send a run to a tracker until its master has ended; 1 if the tracker lacks some of it."""
    sending = Sending(opened, run_dir, master.say)
    for records in followed(run_dir, master):
        sending.points.take(records)
        sending.try_to_send()
    if sending.points.run_state.spec is None or sending.end(master.ending):
        return 0
    master.say("the tracker lacks a part of the run: the same command sends the rest")
    return 1
