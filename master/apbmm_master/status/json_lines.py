"""What happens in a run as JSON on standard output, one object a line, in place of the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from apbmm_common.process.logs import as_json, identify
from apbmm_master.journal.assessment.scores import ScoreHistory, load_rate
from apbmm_master.journal.costs.budget import limits
from apbmm_master.journal.events import Record, ResultRecorded, RunStarted
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.status.console import LenientOutput
from apbmm_master.status.event_words import Weight, event_in_words

LOGGER = "apbmm_master.events"
LARGE = {"spec", "body", "outcomes", "proposals", "estimates", "merges", "references"}
"""Fields of events that are not repeated: the journal has them."""
LEVELS: Mapping[Weight, str] = {"warning": "WARNING", "error": "ERROR"}
"""Levels of events of these weights; all others are INFO."""


class JsonLines:
    """Has the methods of `console.RunConsole`."""

    def __init__(self, run_state: RunState, run_dir: Path, output: TextIO | None = None) -> None:
        self._run_dir = run_dir
        self._output: Any = output or LenientOutput(sys.stdout)
        self._score_history = ScoreHistory()
        identify(run=run_state.run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _write(self, message: str, *, level: str = "INFO", **more: Any) -> None:
        self._output.write(as_json(level, LOGGER, message, **more) + "\n")

    def begin(self, address: str, dashboard: str = "") -> None:
        """Tell the address for workers, and that of the dashboard if there is one."""
        more = {"dashboard": dashboard} if dashboard else {}
        self._write(f"waiting for workers at {address}", event="listening", address=address, **more)

    def draining(self, run_state: RunState) -> None:
        """Tell which evaluations a stopping master waits for."""
        held = [evaluation.id for evaluation, _ in run_state.active_attempts()]
        self._write("finishing what is in hand", event="draining", evaluations=held)

    def watch(self, record: Record, run_state: RunState) -> None:
        """Tell of an event; of a result with its scores."""
        event = record.event
        fields = event.model_dump(mode="json", exclude=LARGE)
        if isinstance(event, RunStarted):
            identify(run=event.run)
        if isinstance(event, ResultRecorded):
            fields |= self._scores(event.evaluation, run_state)
        about = " ".join(str(fields[key]) for key in ("evaluation", "worker") if key in fields)
        said = fields.pop("message", "") or fields.get("reason", "")
        message = ": ".join(part for part in (f"{event.event} {about}".strip(), said) if part)
        words = event_in_words(event)
        level = LEVELS.get(words.weight, "INFO") if words else "INFO"
        self._write(message, level=level, seq=record.seq, **fields)

    def _scores(self, name: str, run_state: RunState) -> dict[str, Any]:
        """Seconds of a result, and once there are objectives these and the hypervolume."""
        found: dict[str, Any] = {"seconds": run_state.evaluations[name].seconds}
        if not run_state.references_done:
            return found
        scores = self._score_history.update(run_state)
        for done in reversed(self._score_history.history()):
            if done.evaluation.id == name:
                found |= {"objectives": done.objectives, "on_front": name in scores.front}
                if done.broken:
                    found["breaks"] = [constraint.in_words for constraint in done.broken]
                break
        return {**found, "hypervolume": scores.hypervolume, "front": len(scores.front)}

    def conclude(self, run_state: RunState, *, goes_on: str = "the same command") -> None:
        """Tell how the run ended or where it stands, and where it is kept."""
        scores = self._score_history.update(run_state)
        end = run_state.finished or f"not finished: {goes_on} goes on from here"
        self._write(
            end,
            event="end",
            finished=bool(run_state.finished),
            hypervolume=scores.hypervolume,
            front=sorted(scores.front),
            evaluations=scores.completed,
            spent={limit.name: limit.spent for limit in limits(run_state)},
            load_rate=load_rate(run_state, 0.0),
            run_directory=str(self._run_dir),
        )
