"""MLflow: a server, or a local store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from apbmm_master.followers.process import Ending
from apbmm_master.followers.track.points import Point
from apbmm_master.followers.track.tracker import TrackedRun

RUN_TAG = "apbmm.run"
STEP = "evaluations"
"""The metric by which MLflow says how many points it has; sent with each of them in one batch."""
LONGEST_VALUE, MOST_PARAMETERS = 500, 100
STATUS = {"over": "FINISHED", "stopped": "KILLED", "error": "FAILED", "killed": "FAILED"}


class MlflowTracker:
    """One run of an MLflow experiment."""

    def __init__(self, tracked: TrackedRun) -> None:
        self._client = MlflowClient(tracked.section.address or None)
        self._run_id = self._found(tracked) or self._new(tracked)
        latest = self._client.get_run(self._run_id).data.metrics
        self.has = int(latest.get(STEP, 0))

    def _found(self, tracked: TrackedRun) -> str | None:
        """A run that an earlier master has begun; it is marked as running again."""
        experiment = self._client.get_experiment_by_name(tracked.section.project)
        if experiment is None:
            return None
        runs = self._client.search_runs(
            [experiment.experiment_id], f"tags.`{RUN_TAG}` = '{tracked.run}'", max_results=1
        )
        if not runs:
            return None
        found: str = runs[0].info.run_id
        self._client.update_run(found, status="RUNNING")
        return found

    def _new(self, tracked: TrackedRun) -> str:
        experiment = self._client.get_experiment_by_name(tracked.section.project)
        place = (
            self._client.create_experiment(tracked.section.project)
            if experiment is None
            else experiment.experiment_id
        )
        tags = {RUN_TAG: tracked.run, "apbmm.rehearsal": str(tracked.rehearsal).lower()}
        made: str = self._client.create_run(place, tags=tags, run_name=tracked.run).info.run_id
        params = [Param(key, value[:LONGEST_VALUE]) for key, value in _flat(tracked.config)]
        self._client.log_batch(made, params=params[:MOST_PARAMETERS])
        self._client.log_dict(made, dict(tracked.config), "run-file.json")
        return made

    def send(self, point: Point) -> None:
        """Add a point in one batch, which MLflow stores whole."""
        when = round(point.time * 1000)
        figures = {**point.figures, STEP: float(point.step)}
        metrics = [Metric(name, value, when, point.step) for name, value in figures.items()]
        if point.front is not None:
            self._client.log_dict(self._run_id, {"front": list(point.front)}, "front.json")
        self._client.log_batch(self._run_id, metrics=metrics)

    def end(self, ending: Ending, *, failed: bool) -> None:
        """Note how the run stands; everything is delivered already."""
        status = "FAILED" if failed else STATUS[ending.how]
        self._client.set_terminated(self._run_id, status)


def open_tracker(tracked: TrackedRun) -> MlflowTracker:
    """Begin or go on."""
    return MlflowTracker(tracked)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values in text; lists as JSON."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)
