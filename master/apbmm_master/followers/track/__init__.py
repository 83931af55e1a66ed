"""A run's evaluations, front and figures in a tracker, as `[track]` of the run file says.

- `points` makes what is sent of a run from its events.
- `tracker.Tracker` is what a tracker can do; `trackio_tracker`, `wandb_tracker` and
  `mlflow_tracker` are the kinds, and `kinds` names them.
- `sending` sends the points that a tracker does not have yet, again after a failure.
"""

__all__ = ["kinds", "points", "sending", "tracker"]
