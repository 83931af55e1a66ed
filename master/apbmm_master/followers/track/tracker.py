"""What a tracker can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from apbmm_common.run_file.sections.reporting import TrackSection
from apbmm_master.followers.process import Ending
from apbmm_master.followers.track.points import Point


@dataclass(frozen=True)
class TrackedRun:
    """A run as it appears in a tracker.

    ``run`` is its id, by which a tracker finds it again; ``config`` its run file as JSON values.
    """

    run: str
    run_dir: Path
    section: TrackSection
    config: Mapping[str, Any]
    rehearsal: bool


class Tracker(Protocol):
    """A run in a tracker, which begins or goes on there when the object is made.

    Whatever its library raises may come out of every method.
    """

    has: int
    """How many points the tracker had then."""

    def send(self, point: Point) -> None:
        """Add the next point."""
        ...

    def end(self, ending: Ending, *, failed: bool) -> None:
        """Deliver all points, and note how the master ended, and whether its run has failed."""
        ...
