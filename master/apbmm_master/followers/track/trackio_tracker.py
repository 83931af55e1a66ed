"""Trackio: a local store, a server, or a Space."""

from __future__ import annotations

import trackio

from apbmm_master.followers.process import Ending
from apbmm_master.followers.track.points import Point
from apbmm_master.followers.track.tracker import TrackedRun


class TrackioTracker:
    """One run of a Trackio project."""

    def __init__(self, tracked: TrackedRun) -> None:
        address = tracked.section.address
        is_url = address.startswith(("http://", "https://"))
        self._run = trackio.init(
            tracked.section.project,
            name=tracked.run,
            server_url=address if is_url else None,
            space_id=address if address and not is_url else None,
            config={**tracked.config, "rehearsal": tracked.rehearsal},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        # Trackio counts from 0, and says only in this attribute where a resumed run goes on.
        self.has = max(self._run._next_step - 1, 0)

    def send(self, point: Point) -> None:
        """Add a point, with a table where the front has changed."""
        figures: dict[str, object] = dict(point.figures)
        if point.front is not None:
            figures["front/table"] = trackio.Table(
                columns=list(point.front[0]), data=[list(row.values()) for row in point.front]
            )
        self._run.log(figures, step=point.step)

    def end(self, ending: Ending, *, failed: bool) -> None:
        """Wait until everything is delivered."""
        del ending, failed  # Trackio keeps no word on how a run ended
        self._run.finish()


def open_tracker(tracked: TrackedRun) -> TrackioTracker:
    """Begin or go on."""
    return TrackioTracker(tracked)
