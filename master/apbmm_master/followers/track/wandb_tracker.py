"""Weights & Biases."""

from __future__ import annotations

import wandb

from apbmm_master.followers.process import Ending
from apbmm_master.followers.track.points import Point
from apbmm_master.followers.track.tracker import TrackedRun


class WandbTracker:
    """One run of a W&B project.

    Offline (``WANDB_MODE=offline``) nobody knows what an earlier master has sent: each master then
    writes a run of its own that is whole.
    """

    def __init__(self, tracked: TrackedRun) -> None:
        address = {"base_url": tracked.section.address} if tracked.section.address else {}
        self._run = wandb.init(
            project=tracked.section.project,
            id=tracked.run,
            name=tracked.run,
            resume="allow",
            dir=str(tracked.run_dir),
            config={**tracked.config, "rehearsal": tracked.rehearsal},
            settings=wandb.Settings(console="off", x_disable_stats=True, **address),
        )
        self.has = max(self._run.step - 1, 0)

    def send(self, point: Point) -> None:
        """Add a point, with a table where the front has changed."""
        figures: dict[str, object] = dict(point.figures)
        if point.front is not None:
            figures["front/table"] = wandb.Table(
                columns=list(point.front[0]), data=[list(row.values()) for row in point.front]
            )
        self._run.log(figures, step=point.step)

    def end(self, ending: Ending, *, failed: bool) -> None:
        """Wait until everything is delivered."""
        self._run.finish(exit_code=int(failed or ending.how in {"error", "killed"}))


def open_tracker(tracked: TrackedRun) -> WandbTracker:
    """Begin or go on."""
    return WandbTracker(tracked)
