"""What the page shows of one run, as JSON: its status, evaluations, events, figures and logs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from apbmm.answers.side_by_side import answered_questions, usual_folders
from apbmm.answers.view import question_as_json
from apbmm.dashboard.followed_run import FollowedRun
from apbmm.report.charts.drawing import specification
from apbmm.report.charts.run_charts import Bar, grouped_bars
from apbmm.report.data.points import front_numbers
from apbmm.report.data.progress import hours_name
from apbmm.report.document import ReportSection
from apbmm.report.names import Names
from apbmm.report.sections.confirmation import confirmation_section
from apbmm.report.sections.front import front_section
from apbmm.report.sections.layers import layers_section
from apbmm.report.sections.progress import trajectories, workers_figure
from apbmm.results.confirmation import read_confirmation
from apbmm.results.json_form import evaluation_as_json
from apbmm.results.run_directories import may_not_ask
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm.results.words import cost_unit
from apbmm_common.errors import UsageError
from apbmm_common.metrics import metric
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.assessment.scores import estimated_objectives
from apbmm_master.journal.events import Record
from apbmm_master.status.event_words import event_in_words
from apbmm_master.status.snapshot import journal_snapshot

Json = dict[str, Any]

LAST_EVENTS = 500
"""So many events are listed."""
LAST_ATTEMPTS = 300
"""So many attempts are drawn in the Gantt chart."""
SOME_ANSWERS = 6
"""So many answers are shown beside those of another evaluation."""
LONGEST_TEXT = 6000
"""Characters of an answer that are shown."""
LOG_BYTES = 65_536
"""The end of a log that is shown at first."""
LOGS = ("*.log", "*.out", "*.err", "workers/*/worker.log", "confirm/workers/*/worker.log")
"""Where the logs of a run are, if they are in its folder."""
FIRST_LOGS = {"master.log": 0, "dashboard.log": 2}
"""The order of the logs: the master's, others, and that of the dashboard itself."""
EXPORT = "export this merge"
CONDITIONS = {"failed": "ended with an error", "unfinished": "no master"}
"""Conditions of a run that the page says otherwise."""
ANOTHER_USER = "another user's master"
"""The condition of a run whose master only another user may ask: whether it lives is not known."""
OWN_ROWS = ("front",)
"""Parts of the status that the rows of the evaluations have as well."""


# ---- status and evaluations ------------------------------------------------------------------


def status(run: FollowedRun, results: RunResults) -> Json:
    """The status snapshot of the journal, and what the page's head shows besides."""
    now = max(time.time(), run.run_state.time) if results.condition == "running" else None
    snapshot = journal_snapshot(run.run_state, run.history, now)
    found = {key: value for key, value in snapshot.items() if key not in OWN_ROWS}
    confirmation = read_confirmation(results)
    return {
        **found,
        "condition": _condition(results, snapshot["trouble"]),
        "begun": True,
        "hours_name": hours_name(results),
        "front_size": len(results.front),
        "confirmed": None
        if confirmation is None
        else {
            "merges": len([m for m in confirmation.merges if m.search.purpose != "reference"]),
            "wanted": confirmation.wanted,
            "hypervolume": confirmation.run.hypervolume if confirmation.run.front else None,
            "holds": {merge.id: merge.holds for merge in confirmation.front},
        },
    }


def not_begun(run: FollowedRun) -> Json:
    """The status of a run whose journal is empty."""
    return {**journal_snapshot(run.run_state), "condition": "", "begun": False}


def _condition(results: RunResults, trouble: str) -> str:
    """The condition in words. A master with trouble in its journal ends without a result."""
    condition = results.condition
    if condition == "unfinished" and trouble:
        condition = "failed"
    if condition == "unfinished" and may_not_ask(results.run_dir):
        return ANOTHER_USER
    return CONDITIONS.get(condition, condition)


def columns(results: RunResults, found: Mapping[str, Json]) -> list[Json]:
    """The columns of numbers that any of the rows has, and how their values are written."""
    every = [
        *({"key": f"o{n}", "title": o, "form": ".4f"} for n, o in enumerate(results.objectives)),
        *(
            {"key": f"m.{name}", "title": name, "form": metric(name).form}
            for name in results.shown_metrics
        ),
        {"key": "seconds", "title": "seconds", "form": ".1f"},
        {"key": "gpu_seconds", "title": cost_unit(results.device, "seconds"), "form": ".1f"},
    ]
    return [each for each in every if any(each["key"] in row for row in found.values())]


def rows(results: RunResults) -> dict[str, Json]:
    """A row for each evaluation, by its id, in the order of the proposals."""
    numbers = front_numbers(results)
    return {each.id: _row(results, each, numbers.get(each.id)) for each in results.evaluations}


def _row(results: RunResults, each: EvaluationResult, number: int | None) -> Json:
    estimate = _estimate(results, each.id) if each.objectives is None else None
    objectives = {f"o{n}": value for n, value in enumerate(each.objectives or estimate or ())}
    metrics = {f"m.{name}": each.figure(name) for name in results.shown_metrics}
    return {
        "id": each.id,
        "purpose": each.purpose,
        "state": str(each.state),
        "number": number,
        "breaks": ", ".join(each.breaks),
        "estimated": estimate is not None,
        **objectives,
        **{name: figure.value for name, figure in metrics.items() if figure is not None},
        "seconds": each.seconds or None,
        "gpu_seconds": each.gpu_seconds or None,
        "worker": each.worker,
        "attempts": each.attempts,
        "done_at": each.done_at,
        "message": each.message,
        "export": commands(results, each).get(EXPORT) if number else None,
    }


def _estimate(results: RunResults, name: str) -> tuple[float, ...] | None:
    """The objectives that are estimated of a merge that has answered a part of the questions."""
    estimate = results.run_state.evaluations[name].estimate
    if estimate is None or results.trouble or not results.run_state.references_done:
        return None
    return estimated_objectives(results.run_state, estimate)[0]


def event_lines(records: Sequence[Record], most: int = LAST_EVENTS) -> list[Json]:
    """The last events in words, the oldest first."""
    lines = (
        {"seq": record.seq, "time": record.time, "text": words.text, "weight": words.weight,
         "evaluation": words.evaluation, "worker": words.worker}
        for record in reversed(records)
        if (words := event_in_words(record.event)) is not None
    )  # fmt: skip
    return list(islice(lines, most))[::-1]


# ---- figures ---------------------------------------------------------------------------------


def overview_figures(results: RunResults) -> list[ReportSection]:
    """The front and how it grew, and what is confirmed of it.

    The figures of all benchmarks together come first, those of each benchmark after them.
    """
    confirmation = read_confirmation(results)
    front = front_section(results, None, confirmation)
    figures = [*(front.figures if front else ()), *trajectories(results)]
    of_all = [each for each in figures if each.name.startswith(("objectives-", "progress-"))]
    others = [each for each in figures if each not in of_all]
    confirmed = confirmation_section(results, confirmation)
    return [
        ReportSection("Front", figures=(*of_all, *others)),
        *([confirmed] if confirmed else []),
    ]


def worker_figures(results: RunResults) -> list[ReportSection]:
    """What each worker did when."""
    if not results.run_state.sessions.stays:
        return []
    names = Names.of(results, whole=True)
    return [ReportSection("Workers", figures=(workers_figure(results, names, LAST_ATTEMPTS),))]


def layer_figures(results: RunResults) -> list[ReportSection]:
    """Weights along the front, and the prior. No surrogate is fitted for it."""
    found = layers_section(results, None)
    return [] if found is None else [found]


FIGURES: Mapping[str, Callable[[RunResults], list[ReportSection]]] = {
    "overview": overview_figures,
    "workers": worker_figures,
    "layers": layer_figures,
}
"""The figures of each view of the page."""


def sections_as_json(sections: Iterable[ReportSection]) -> list[Json]:
    """Sections of a report with their figures in Vega-Lite."""
    return [
        {
            "title": section.title,
            "paragraphs": list(section.paragraphs),
            "figures": [
                {
                    "name": figure.name,
                    "title": figure.title,
                    "caption": figure.caption,
                    "chart": specification(figure.chart),
                }
                for figure in section.figures
            ],
            "tables": [
                {
                    "headings": table.headings,
                    "rows": table.rows,
                    "caption": table.caption,
                    "words": table.words,
                }
                for table in section.tables
            ],
        }
        for section in sections
    ]


# ---- one evaluation --------------------------------------------------------------------------


def detail(results: RunResults, name: str) -> Json:
    """Everything about one evaluation. Raises `UsageError` for an id that there is not."""
    each = results.evaluation(name)
    evaluation = results.run_state.evaluations[name]
    body = evaluation.body
    return {
        **evaluation_as_json(results, each),
        "stages": dict(body.stages) if isinstance(body, Evaluated) else {},
        "tried": [
            {
                "number": attempt.number,
                "worker": attempt.worker,
                "state": str(attempt.state),
                "begun_at": attempt.leased_at,
                "ended_at": attempt.ended_at,
                "kept": attempt.kept,
                "message": attempt.message,
            }
            for attempt in evaluation.attempts
        ],
        "commands": commands(results, each),
        "sources": list(results.spec.sources.names),
        "weights": _weights_chart(results, each),
        "forms": {name: metric(name).form for b in each.benchmarks.values() for name in b.metrics},
    }


def commands(results: RunResults, each: EvaluationResult) -> dict[str, str]:
    """Commands about an evaluation, to be copied, by what they do."""
    run = str(results.run_dir.resolve())
    found: dict[str, str] = {}
    if not results.run_dir.is_dir():  # that of a master on another host
        return found
    if each.purpose in ("initial", "search", "learnt") and each.benchmarks:
        found[EXPORT] = shlex.join(("apbmm", "export", run, "--eval", each.id, "--out", each.id))
    if each.benchmarks and not results.rehearsal:
        first = results.spec.sources.names[0]
        against = () if each.id == first else ("--against", first)
        found["list its answers"] = shlex.join(
            ("apbmm", "answers", run, "--eval", each.id, *against)
        )
    return found


def _weights_chart(results: RunResults, each: EvaluationResult) -> Json | None:
    if not each.source_weights:
        return None
    bars = []
    for source in results.weighed:
        weights = each.named_weights(source) | dict(each.outside_source_weights[source])
        series = f"weight of {source}"
        bars += [Bar(name, series, w, f"{source}, {name}: {w:.3f}") for name, w in weights.items()]
    title = bars[0].series if len(results.weighed) == 1 else "weight"
    return specification(grouped_bars(bars, "layer", title, domain=(0.0, 1.0)))


def require_folder(run_dir: Path) -> None:
    """Raise `UsageError` for a run whose folder is on another host."""
    if not run_dir.is_dir():
        raise UsageError(
            "texts of answers and logs are not sent over an address, and the folder of the run, "
            "which has them, is on its master's host",
            "apbmm dashboard and apbmm answers show them there",
        )


def answers(results: RunResults, name: str, against: str) -> Json:
    """Some answers of an evaluation beside those of another one, those that differ first.

    ``against``: the other one; "" for the first source. Raises `UsageError` for an id that there is
    not and for a run of another host, and `ApbmmError` where the journal has no answers.
    """
    require_folder(results.run_dir)
    against = against or results.spec.sources.names[0]
    evaluations = [results.evaluation(each) for each in (name, against)]
    found = answered_questions(results, evaluations, usual_folders(results.run_dir))
    differing = [question for question in found if question.differs]
    alike = [question for question in found if not question.differs]
    shown = [question_as_json(each) for each in [*differing, *alike][:SOME_ANSWERS]]
    for question in shown:
        for answer in question["answers"].values():
            text = answer["answer"]
            if text is not None and len(text) > LONGEST_TEXT:
                answer["answer"] = text[:LONGEST_TEXT]
                answer["left_out"] = len(text) - LONGEST_TEXT
    return {
        "evaluations": [name, against],
        "asked": len(found),
        "differing": len(differing),
        "questions": shown,
    }


# ---- logs ------------------------------------------------------------------------------------


def log_names(run_dir: Path) -> list[str]:
    """The logs in a run's folder, by their places in it, that of the master first.

    Links are left out. Raises `UsageError` for a run of another host.
    """
    require_folder(run_dir)
    found = {
        file.relative_to(run_dir).as_posix()
        for pattern in LOGS
        for file in run_dir.glob(pattern)
        if file.is_file() and not file.is_symlink() and not file.parent.is_symlink()
    }
    return sorted(found, key=lambda name: (FIRST_LOGS.get(name, 1), name))


def log_text(run_dir: Path, name: str, after: int | None = None) -> Json:
    """A log from byte ``after`` on, or its end, and the byte at which it goes on.

    Raises `UsageError` for a name that `log_names` does not have.
    """
    if name not in log_names(run_dir):
        raise UsageError(f"{name}: no log of this run")
    with (run_dir / name).open("rb") as file:
        size = file.seek(0, 2)
        begin = max(0, size - LOG_BYTES)
        if after is not None and begin <= after <= size:
            begin = after
        file.seek(begin)
        content = file.read(LOG_BYTES)
    text = content.decode(errors="replace")
    return {"begin": begin, "end": begin + len(content), "text": text}
