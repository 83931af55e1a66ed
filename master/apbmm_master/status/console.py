"""The master's terminal: a progress bar for the budget, and a line for every result and trouble."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self, TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from apbmm_common.checkpoint.identical_layers import not_searched
from apbmm_common.metrics import in_words, metric, shown_metrics
from apbmm_common.protocol.addresses import reached_at, reached_from_elsewhere
from apbmm_common.protocol.messages import Evaluated, Measured
from apbmm_common.run_file.constraints import Constraint
from apbmm_master.journal.assessment.scores import (
    ScoreHistory,
    Scores,
    breaks_by_estimate,
    broken_by,
    estimated_objectives,
    load_rate,
    measurement_of,
)
from apbmm_master.journal.costs.budget import forecast, limits
from apbmm_master.journal.events import (
    AttemptFailed,
    BordersFound,
    Estimated,
    EvaluationFailed,
    Finishing,
    Leased,
    Lost,
    Record,
    ResultRecorded,
    RunLearnt,
    SourcesVerified,
    Stopped,
    WorkerJoined,
    WorkerLeft,
    WorkerQuarantined,
)
from apbmm_master.journal.state.evaluations import Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.status.event_words import event_in_words
from apbmm_master.status.point_table import PointTable
from apbmm_master.status.result_words import front_in_words
from apbmm_master.status.stages import stage_line, stage_summary

log = logging.getLogger(__name__)

STYLES = {"warning": "yellow", "error": "red"}
"""By the weight of an event."""


def worker_command(bind: str, *, rehearsal: bool) -> str:
    """How a worker is started for a master that listens on ``bind``, here and on other hosts."""
    elsewhere = reached_from_elsewhere(bind)
    here = worker_of(reached_at(bind), rehearsal=rehearsal)
    return here + (f", on other hosts --master {elsewhere}" if elsewhere else "")


def worker_of(master: str, *, rehearsal: bool) -> str:
    """How a worker is started that reaches its master at this address."""
    return f"apbmm-worker --gpu {'rehearsal' if rehearsal else 'N'} --master {master}"


class RunConsole:
    """Prints the progress of a run; `watch` is called with every committed event."""

    def __init__(self, run_state: RunState, run_dir: Path, console: Console | None = None) -> None:
        self.console = console or Console(file=standard_output(), soft_wrap=True, highlight=False)
        self._run_dir = run_dir
        self._score_history = ScoreHistory()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[spent]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
        )
        assert run_state.spec is not None
        self._rehearsal = run_state.spec.evaluation.kind == "rehearsal"
        rehearsal = "REHEARSAL " if self._rehearsal else ""
        self._task = self._bar.add_task(
            f"{rehearsal}{run_state.spec.name} ({run_state.spec.algorithm.name})",
            total=1.0,
            **self._budget(run_state),
        )
        self._shown = len(run_state.completed)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, address: str, dashboard: str = "") -> None:
        """Print the address for workers, and that of the dashboard if there is one."""
        workers = worker_command(address, rehearsal=self._rehearsal)
        self.console.print(f"waiting for workers at {address}: {workers}", markup=False)
        if dashboard:
            self.console.print(f"dashboard: {dashboard}", markup=False)

    def draining(self, run_state: RunState) -> None:
        """Print which evaluations a stopping master waits for."""
        held = ", ".join(evaluation.id for evaluation, _ in run_state.active_attempts())
        if held:
            self.console.print(f"finishing {held}; a second signal stops at once", markup=False)

    def watch(self, record: Record, run_state: RunState) -> None:  # noqa: C901 - a branch for each
        """Print an event that matters to a person."""
        match record.event:
            case ResultRecorded(evaluation=name):
                self._completed(run_state.evaluations[name], run_state)
            case Estimated(estimates=estimates):
                for name in estimates:
                    self._estimated(run_state.evaluations[name], run_state)
            case Stopped(evaluation=name, reason=reason):
                self.console.print(f"{name} is stopped: {reason}", markup=False)
            case Finishing(reason=reason):
                self.console.print(
                    f"paused merges are completed from here on, and no other is begun: {reason}",
                    markup=False,
                )
            case RunLearnt(run=run):
                count = len(run_state.learning.evaluations)
                self.console.print(f"learnt {count} merges and the references from {run}")
            case WorkerJoined(worker=name):
                self.console.print(f"worker {name} joined")
            case SourcesVerified(identical_layers=layers) if layers:
                self.console.print(not_searched(layers), markup=False)
            case Leased(evaluation=name, worker=worker, kept=kept) if kept:
                self.console.print(
                    f"{name} goes on on {worker}; {kept} answers of earlier attempts are kept",
                    markup=False,
                )
            case (
                WorkerLeft()
                | WorkerQuarantined()
                | Lost()
                | AttemptFailed()
                | EvaluationFailed()
                | BordersFound()
            ):
                words = event_in_words(record.event)
                assert words is not None
                # The text may come from elsewhere, so brackets in it are not markup.
                self.console.print(words.text, style=STYLES.get(words.weight), markup=False)

    def _say_whole(self, text: str) -> None:
        """Print prose, on a terminal broken between words; a file has it in one line."""
        self.console.print(text, markup=False, soft_wrap=not self.console.is_terminal)

    def _completed(self, evaluation: Evaluation, run_state: RunState) -> None:
        if isinstance(evaluation.body, Measured):
            self.console.print(f"discrepancies measured on {evaluation.body.prompts} prompts")
        elif not evaluation.in_budget:
            self.console.print(
                f"reference {evaluation.id}: {_metrics_text(evaluation, run_state)}"
                f"{_breaks(broken_by(run_state, evaluation))}"
            )
        self._bar.update(self._task, **self._budget(run_state))
        if not run_state.references_done:
            return
        scores = self._score_history.update(run_state)
        spent = ", ".join(limit.in_words for limit in limits(run_state))
        for done in self._score_history.history(self._shown):
            objectives = " ".join(f"{value:.3f}" for value in done.objectives)
            metrics = _metrics_text(done.evaluation, run_state)
            self.console.print(
                f"{done.evaluation.id}  [{objectives}]  {metrics}  "
                f"{done.evaluation.seconds:.1f} s  HV {done.hypervolume:.4f}  front {done.front}  "
                f"({spent}){_breaks(done.broken)}",
                markup=False,
            )
        self._shown = scores.completed

    def _estimated(self, evaluation: Evaluation, run_state: RunState) -> None:
        """Print the estimate of a merge that has paused; ``~`` marks what is no measurement."""
        step, estimate = evaluation.step, evaluation.estimate
        assert step is not None
        assert estimate is not None
        self._bar.update(self._task, **self._budget(run_state))
        assert run_state.spec is not None
        means, _ = estimated_objectives(run_state, estimate)
        broken = breaks_by_estimate(run_state.spec, estimate)
        spent = ", ".join(limit.in_words for limit in limits(run_state))
        self.console.print(
            f"{evaluation.id}  ~[{' '.join(f'{value:+.3f}' for value in means)}]  "
            f"after {step.answered} of {step.answers} answers  ({spent})"
            f"{_breaks(broken, 'may break')}",
            markup=False,
        )

    def _budget(self, run_state: RunState) -> dict[str, Any]:
        """The bar's fields: the largest share of a limit, all that is spent, and the time left."""
        found = limits(run_state)
        share = max(limit.spent / limit.most for limit in found)
        expected = forecast(run_state, run_state.time) if share < 1.0 else None
        return {
            "completed": min(1.0, share),
            "spent": ", ".join(limit.in_words for limit in found),
            "left": f"{expected.in_words} left" if expected else "",
        }

    def conclude(self, run_state: RunState, *, goes_on: str = "the same command") -> None:
        """Print the front, its hypervolume, the load rate and the run directory.

        ``goes_on`` is the command that goes on with a run that has not ended.
        """
        scores = self._score_history.update(run_state)
        if scores.front:
            self.console.print(front_table(scores, run_state))
            found = front_in_words(scores.hypervolume, len(scores.front))
            self._say_whole(f"{found}, {scores.completed} evaluations")
        broken = sum(bool(done.broken) for done in self._score_history.history())
        if broken and run_state.spec is not None:
            limits_in_words = ", ".join(each.in_words for each in run_state.spec.constraints)
            self._say_whole(f"{broken} of {scores.completed} merges break {limits_in_words}")
        self._say_whole(f"spent: {', '.join(limit.in_words for limit in limits(run_state))}")
        rate = load_rate(run_state, 0.0)
        if rate is not None:
            self.console.print(f"load rate {rate:.1%}")
        stages = stage_line(stage_summary(run_state))
        if stages:
            self._say_whole(stages)
        if run_state.finished:
            self._say_whole(f"finished: {run_state.finished}")
        else:
            self._say_whole(f"not finished: {goes_on} goes on from here")
        self.console.print(f"run directory: {self._run_dir}", markup=False)


def _breaks(broken: Sequence[Constraint], verb: str = "breaks") -> str:
    """What is added to the line of an evaluation that breaks constraints."""
    return f"  {verb} {', '.join(each.in_words for each in broken)}" if broken else ""


def front_table(scores: Scores, run_state: RunState) -> PointTable:
    """The front as a table, sorted by the first objective."""
    assert run_state.spec is not None
    points = {name: measurement_of(run_state.evaluations[name]) for name in scores.front}
    columns = [
        (benchmark.name, name)
        for benchmark in run_state.spec.benchmarks
        for name in _shown(run_state)
        if any(name in measured[benchmark.name] for measured in points.values())
    ]
    return PointTable(
        "Pareto front",
        [objective.name for objective in run_state.spec.objectives],
        [f"{benchmark}\n{name}" for benchmark, name in columns],
        [
            (
                name,
                [f"{value:.3f}" for value in objectives],
                [metric(m).text(points[name][b].get(m)) for b, m in columns],
            )
            for name, objectives in sorted(scores.front.items(), key=lambda point: point[1])
        ],
    )


def _shown(run_state: RunState) -> tuple[str, ...]:
    assert run_state.spec is not None
    return shown_metrics(objective.metric for objective in run_state.spec.objectives)


def _metrics_text(evaluation: Evaluation, run_state: RunState) -> str:
    if not isinstance(evaluation.body, Evaluated):
        return ""
    parts = []
    for name, result in evaluation.body.benchmarks.items():
        notes = [f"{result.truncated} truncated"] if result.truncated else []
        notes += [f"{result.malformed} malformed"] if result.malformed else []
        note = f" ({', '.join(notes)})" if notes else ""
        parts.append(f"{name} {in_words(result.metrics, _shown(run_state))}{note}")
    return ", ".join(parts)


def standard_output() -> IO[str] | None:
    """Standard output as a `LenientOutput`; None if it has no file."""
    try:
        return cast("IO[str]", LenientOutput(sys.stdout))
    except (AttributeError, OSError):
        return None


class LenientOutput(io.TextIOBase):
    """Writes to the file of ``stream`` and drops what cannot be written, so that the run goes on.

    The first error (a full disk, a closed pipe) is logged. Nothing is buffered: Python would try to
    write a buffer again at the end of the process, and fail again. Raises `OSError` for a stream
    without a file.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._descriptor = stream.fileno()
        self._logged = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's file descriptor."""
        return self._descriptor

    def write(self, text: str) -> int:
        """Write as much of ``text`` as possible; returns the length of all of it."""
        data = text.encode(self.encoding, errors="replace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            if not self._logged:
                self._logged = True
                log.warning(
                    "standard output cannot be written: %s; the run goes on, and apbmm status "
                    "shows how it goes",
                    error.strerror,
                )
        return len(text)
