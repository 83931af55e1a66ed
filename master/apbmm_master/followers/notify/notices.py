"""What of a run is worth a notice, from its events and from how its master ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apbmm_common.run_file.sections.reporting import Happening
from apbmm_master.followers.process import Ending
from apbmm_master.journal.assessment.scores import ScoreHistory, Scores
from apbmm_master.journal.events import Finished, Record, ResultRecorded
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.status.result_words import front_in_words
from apbmm_master.status.snapshot import is_rehearsal


@dataclass(frozen=True)
class Notice:
    """One notice: what happened, a line that says it, and the figures as JSON values."""

    happened: Happening
    text: str
    figures: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The object that is handed over; chats show its ``text`` (Slack and others) or its
        ``content`` (Discord)."""
        return {
            "notice": self.happened,
            "text": self.text,
            "content": self.text,
            **self.figures,
        }


class Watch:
    """Follows a run, and says what of it is worth a notice."""

    def __init__(self) -> None:
        self.run_state = RunState()
        self._history = ScoreHistory()
        self._scores = Scores()

    def take(self, record: Record) -> list[Notice]:
        """Apply the next event; the notices that it is worth.

        The second reference that is measured gives merges that were there before it their scores.
        """
        self.run_state.apply(record)
        match record.event:
            case Finished(failed=failed, reason=reason):
                word = "failed" if failed else "finished"
                return [self._notice("failure" if failed else "end", f"{word}: {reason}", record)]
            case ResultRecorded():
                before = self._scores.front
                self._scores = self._history.update(self.run_state)
                return [
                    self._notice("front", self._in_words(name), record, evaluation=name)
                    for name in self._scores.front
                    if name not in before
                ]
        return []

    def _in_words(self, name: str) -> str:
        spec = self.run_state.spec
        assert spec is not None
        values = zip(spec.objectives, self._scores.front[name], strict=True)
        figures = ", ".join(f"{objective.name} {value:.3f}" for objective, value in values)
        return f"{name} is new on the front ({figures})"

    def ended(self, ending: Ending) -> Notice | None:
        """The notice of a master that has ended, unless the journal has told of its end."""
        if self.run_state.spec is None:
            return None  # it ended before the run began
        match ending.how:
            case "error":
                return self._notice("failure", f"the master ended by an error: {ending.message}")
            case "killed" if not self.run_state.finished:
                killed = "the master was killed; the same command goes on where it stopped"
                return self._notice("failure", killed)
        return None

    def _notice(
        self, happened: Happening, what: str, record: Record | None = None, evaluation: str = ""
    ) -> Notice:
        run_state, scores = self.run_state, self._scores
        assert run_state.spec is not None
        rehearsal = is_rehearsal(run_state)
        name = f"rehearsal {run_state.spec.name}" if rehearsal else run_state.spec.name
        found = front_in_words(scores.hypervolume, len(scores.front))
        figures = {
            "run": run_state.run,
            "rehearsal": rehearsal,
            "time": record.time if record is not None else run_state.time,
            "evaluation": evaluation,
            "objectives": dict(
                zip(
                    (objective.name for objective in run_state.spec.objectives),
                    scores.front.get(evaluation, ()),
                    strict=False,
                )
            ),
            "hypervolume": scores.hypervolume,
            "front": len(scores.front),
            "evaluations": scores.completed,
        }
        text = f"{name}: {what}; {found}" if scores.front else f"{name}: {what}"
        return Notice(happened, text, figures)
