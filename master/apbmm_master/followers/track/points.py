"""What a tracker is sent: a point for each completed evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from apbmm_master.journal.assessment.scores import (
    ScoredEvaluation,
    ScoreHistory,
    Scores,
    measured_references,
    measurement_of,
)
from apbmm_master.journal.events import Record, ResultRecorded
from apbmm_master.journal.state.evaluations import Evaluation
from apbmm_master.journal.state.run_state import RunState

Row = dict[str, str | float]


@dataclass(frozen=True)
class Point:
    """An evaluation of the budget, scored, and what is known of the run then.

    ``step`` counts from 1. ``time`` is in Unix seconds. ``figures`` have names with slashes, which
    trackers show as groups. ``front`` has a row for each merge of the front; None where it is that
    of the point before.
    """

    step: int
    time: float
    evaluation: str
    figures: Mapping[str, float]
    front: tuple[Row, ...] | None


class Points:
    """Makes the points of a run from its events."""

    def __init__(self) -> None:
        self.run_state = RunState()
        self.all: list[Point] = []
        self._history = ScoreHistory()
        self._front: tuple[str, ...] = ()

    def take(self, records: Iterable[Record]) -> None:
        """Apply the next events."""
        for record in records:
            self.run_state.apply(record)
            if isinstance(record.event, ResultRecorded):
                scores = self._history.update(self.run_state)
                for scored in self._history.history(len(self.all)):
                    self.all.append(self._point(scored, scores))

    def _point(self, scored: ScoredEvaluation, scores: Scores) -> Point:
        front = tuple(scores.front)
        same, self._front = front == self._front, front
        rows = None if same else tuple(self._row(*member) for member in scores.front.items())
        evaluation = scored.evaluation
        return Point(
            len(self.all) + 1,
            evaluation.done_at,
            evaluation.id,
            {
                "hypervolume": scored.hypervolume,
                "front/merges": scored.front,
                "spent/gpu_hours": self.run_state.spending.gpu_seconds / 3600,
                "spent/generated_tokens": self.run_state.spending.tokens,
                "evaluation/seconds": evaluation.seconds,
                **self._objectives(scored.objectives),
                **_measured("evaluation", evaluation),
                **{
                    name: value
                    for reference in measured_references(self.run_state)
                    for name, value in _measured(reference.id, reference).items()
                },
            },
            rows,
        )

    def _objectives(self, values: Iterable[float]) -> dict[str, float]:
        assert self.run_state.spec is not None
        names = (f"objective/{objective.name}" for objective in self.run_state.spec.objectives)
        return dict(zip(names, values, strict=True))

    def _row(self, name: str, objectives: tuple[float, ...]) -> Row:
        evaluation = self.run_state.evaluations[name]
        return {
            "merge": name,
            **self._objectives(objectives),
            **_measured("benchmark", evaluation),
        }


def _measured(group: str, evaluation: Evaluation) -> dict[str, float]:
    """The metrics of each benchmark."""
    return {
        f"{group}/{benchmark}/{metric}": value
        for benchmark, metrics in measurement_of(evaluation).items()
        for metric, value in metrics.items()
        if metric != "questions"
    }
