"""Draws a status snapshot into the size of a terminal: what runs, what was found, what is wrong."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from apbmm.results.words import duration
from apbmm.status.live.plot import LEAST_HEIGHT, Axis, Mark, scatter
from apbmm.status.view import (
    CARD,
    STALE_SECONDS,
    device_of,
    estimate_in_words,
    estimated,
    head,
    limits_of,
    trouble_lines,
)
from apbmm_common.metrics import in_words, metric
from apbmm_master.journal.costs.budget import UNITS, amount, roughly
from apbmm_master.status.result_words import front_in_words

Entry = Mapping[str, Any]

MOST_WORKERS = 10
MOST_COMPLETIONS = 5
MOST_TROUBLE = 6
"""Lines of each section at most; what is left out is counted."""
TALLEST_PLOT = 18
BAR = 24
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
ASCII_SPINNER = "|/-\\"
TURNS_A_SECOND = 4
SECONDS_AN_HOUR = 3600.0
STAGES = {
    "begin": "begins",
    "verify": "verifies the sources",
    "read benchmarks": "reads the benchmarks",
    "measure": "measures the discrepancies",
    "merge": "merges",
    "start engine": "starts its engine",
    "try hot-loading": "tries hot-loading",
    "compare sources": "compares the engine with the sources",
    "load": "loads the merge",
    "evaluate": "evaluates",
    "rehearse": "invents answers",
    "report": "reports",
}
"""What a worker does in each stage. Others are shown by their names."""
COUNTED = ("evaluate", "rehearse", "measure", "verify")
"""Stages whose progress is counted in questions or files; of others it is their seconds."""


@dataclass
class LiveView:
    """The view; ``status`` is None before the first snapshot.

    ``expected``: workers that were started here, and may not have joined yet. ``notices``: what
    else is to be told. ``taken`` and ``now``: when the snapshot was taken, and the present, in
    seconds of one clock; ``began``: when the view did. ``hint`` has the last lines. ``stages``: by
    worker its evaluation and stage, and when that began as far as the snapshots say.
    """

    status: Entry | None = None
    expected: Sequence[str] = ()
    notices: list[str] = field(default_factory=list)
    taken: float = 0.0
    now: float = 0.0
    began: float = 0.0
    hint: str = "Ctrl-C ends the view; the run goes on"
    stages: dict[str, tuple[str, str, float]] = field(default_factory=dict)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As many lines as the terminal has at most, each cut to its width."""
        height = options.height or console.size.height
        for line in self.lines(options.max_width, height, ascii_only=options.ascii_only):
            line.no_wrap, line.overflow = True, "crop"
            yield line

    def lines(self, width: int, height: int, *, ascii_only: bool = False) -> list[Text]:
        """The lines of the view. What matters least is left out where there is little room."""
        spinner = self._spinner(ascii_only=ascii_only)
        top = self._top(spinner, width, ascii_only=ascii_only)
        workers = [] if self._is_over else self._workers(spinner, width)
        wrong = self._wrong(width)
        last = self._completions()
        end = [Text(line, style="dim") for line in self.hint.splitlines()]
        room = height - sum(map(len, (top, workers, wrong, end)))
        shown = last if room >= len(last) else []
        room -= len(shown)
        plot = self._plot(width, min(room - 2, TALLEST_PLOT), ascii_only=ascii_only)
        lines = [*top, *workers, *plot, *shown, *wrong, *end]
        return [_cut(line, width) for line in lines[: height - 1] + lines[height - 1 :][-1:]]

    @property
    def _is_over(self) -> bool:
        """Whether nothing goes on any more: no worker is shown at work then."""
        status = self.status
        if status is None or not status.get("run"):
            return False
        ended = status.get("finished") or status.get("fault")
        return bool(ended) or status["master_alive"] is False

    def _spinner(self, *, ascii_only: bool) -> str:
        frames = ASCII_SPINNER if ascii_only else SPINNER
        return frames[int(self.now * TURNS_A_SECOND) % len(frames)]

    # ---- the run -------------------------------------------------------------------------

    def _top(self, spinner: str, width: int, *, ascii_only: bool) -> list[Text]:
        status = self.status
        if status is None or not status.get("run"):
            waited = duration(self.now - self.began)
            return [Text(f"{spinner} the master starts ({waited})", style="bold")]
        line = head(status)
        if not self._is_over:
            line = Text.assemble(f"{spinner} ", line)
        fault = _section("The run stops", _some_lines([status.get("fault", "")], width, "red"))
        lines = [line, *fault, *_budget(status, width, ascii_only=ascii_only)]
        texts = [*_left(status), _speed(status), _result(status)]
        lines += [Text(text) for text in texts if text]
        return lines

    # ---- workers -------------------------------------------------------------------------

    def _workers(self, spinner: str, width: int) -> list[Text]:
        status = self.status or {}
        joined = {worker["name"]: worker for worker in status.get("workers", ())}
        names = [*joined, *(name for name in self.expected if name not in joined)]
        if not names:
            return [] if self.status is None else _section("Workers", [Text("none has joined yet")])
        running = {row["id"]: row for row in status.get("running", ())}
        widest = max(map(cell_len, names[:MOST_WORKERS]))
        column = min(widest, max(8, width // 3))
        rows = [
            Text.assemble(
                set_cell_size(name, column), "  ", self._worker(joined.get(name), running, spinner)
            )
            for name in names[:MOST_WORKERS]
        ]
        if len(names) > MOST_WORKERS:
            rows.append(Text(_others([joined.get(name) for name in names[MOST_WORKERS:]])))
        return _section("Workers", rows)

    def _worker(self, worker: Entry | None, running: Mapping[str, Entry], spinner: str) -> Text:
        """What one worker does; None is one that has not joined."""
        if worker is None:
            return Text(f"{spinner} starts ({duration(self.now - self.began)})", style="dim")
        since = self.now - self.taken
        age = worker.get("heartbeat_age")
        if age is not None and age > STALE_SECONDS:
            return Text(f"silent for {duration(age + since)} ({worker['state']})", style="yellow")
        stage, state = worker.get("stage", ""), worker["state"]
        name = worker["evaluation"]
        is_at_work = state == "preparing" or (state in ("busy", "draining") and name)
        if not is_at_work:
            self.stages.pop(worker["name"], None)
            return Text(state, style="red" if worker.get("reason") else "dim")
        text = f"{spinner} {name or 'prepares'}: {STAGES.get(stage, stage or 'begins')}"
        total = worker.get("total", 0)
        if stage in COUNTED and total > 1:
            unit = " questions" if stage == "evaluate" else ""
            text += f" {worker['done']}/{total}{unit}"
            seconds = running[name]["seconds"] + since if name in running else None
        else:
            seconds = self.now - self._stage_began(worker, running)
        text += "" if seconds is None else f", {duration(seconds)}"
        reported = worker.get("reporting", "")
        return Text(text if reported in ("", name) else f"{text}; report of {reported}")

    def _stage_began(self, worker: Entry, running: Mapping[str, Entry]) -> float:
        """When the stage of a worker began, by the earliest that a snapshot said.

        A heartbeat's ``quiet`` is as old as the heartbeat, and begins anew within a stage.
        """
        name, stage = worker["evaluation"], worker.get("stage", "")
        if not stage and name in running:
            seconds = running[name]["seconds"]
        else:
            seconds = worker.get("quiet", 0.0) + (worker.get("heartbeat_age") or 0.0)
        began: float = self.taken - seconds
        *known, earlier = self.stages.get(worker["name"], ("", "", began))
        if known == [name, stage]:
            began = min(began, earlier)
        self.stages[worker["name"]] = (name, stage, began)
        return began

    # ---- what was found ------------------------------------------------------------------

    def _completions(self) -> list[Text]:
        status = self.status or {}
        recent = list(status.get("recent", ()))[-MOST_COMPLETIONS:]
        names = status.get("objectives", ())
        rows = [
            Text(completion(done, names), style="green" if done["on_front"] else "")
            for done in reversed(recent)
        ]
        if not rows:
            rows = [
                Text(f"reference {name}: {_means_in_words(metrics)}")
                for name, metrics in status.get("references", {}).items()
            ]
        found = _section("Last completions (green: on the front)" if recent else "Measured", rows)
        last = estimated(status)[-MOST_COMPLETIONS:]
        guessed = [Text(estimate_in_words(entry, names), style="dim") for entry in reversed(last)]
        return [*found, *_section("Last estimates", guessed)]

    def _plot(self, width: int, height: int, *, ascii_only: bool) -> list[Text]:
        found = _plotted(self.status or {})
        if found is None or height < LEAST_HEIGHT:
            return []
        marks, x, y = found
        lines = scatter(marks, x, y, width, height, ascii_only=ascii_only)
        names = (self.status or {}).get("references", {})
        sources = "".join(f", {mark} {name}" for name, mark in _marks_of(names).items())
        beyond = ", x beyond a constraint" if (self.status or {}).get("constraints") else ""
        title = f"Front: o on it, . others{beyond}, ~ estimates{sources}"
        return _section(title, map(Text, lines))

    def _wrong(self, width: int) -> list[Text]:
        status = self.status or {"workers": ()}
        fault = status.get("fault")  # it stands on top
        told = trouble_lines({**status, "trouble": fault or status.get("trouble", "")})
        wrong = [text for text in told if text != fault]
        return [
            *_section("What is wrong", _some_lines(wrong, width, "yellow")),
            *_section("Notices", _some_lines(self.notices, width, "yellow")),
        ]


def _cut(line: Text, width: int) -> Text:
    """The line within the width; one that was cut ends with an ellipsis."""
    line.truncate(width, overflow="ellipsis")
    return line


def _wrapped(text: str, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    return [line.plain for line in Text(text).wrap(console, width)]


def _some_lines(texts: Iterable[str], width: int, style: str) -> list[Text]:
    """Texts in lines of the width, `MOST_TROUBLE` at most."""
    pieces = (piece for text in texts if text for piece in _wrapped(text, width))
    lines = [Text(piece, style=style) for piece in pieces]
    if len(lines) > MOST_TROUBLE:
        left_out = len(lines) - MOST_TROUBLE + 1
        lines = [*lines[: MOST_TROUBLE - 1], Text(f"... and {left_out} more lines")]
    return lines


def _section(title: str, lines: Any) -> list[Text]:
    rows = list(lines)
    return [Text(title, style="bold"), *rows] if rows else []


def _budget(status: Entry, width: int, *, ascii_only: bool) -> Iterator[Text]:
    """A bar for each limit."""
    full, empty = ("#", ".") if ascii_only else ("█", "░")
    size = min(BAR, width // 3)
    for limit in limits_of(status):
        share = min(1.0, limit["spent"] / limit["limit"]) if limit["limit"] else 1.0
        filled = round(share * size)
        numbers = f"{amount(limit['spent'])}/{amount(limit['limit'])} {UNITS[limit['name']]}"
        yield Text.assemble(
            (full * filled, "green"), (empty * (size - filled), "dim"), f" {numbers}"
        )


def _left(status: Entry) -> list[str]:
    """How long it has taken, how much is left, and what that estimate follows from."""
    so_far = f"{duration(status.get('seconds', 0.0))} so far"
    expected = None if status.get("fault") else status.get("forecast")
    if not expected or not expected.get("measured"):
        return [so_far]
    cards, device = expected["cards"], device_of(status)
    hours = amount(expected["merges"] * expected["each"] / SECONDS_AN_HOUR)
    paid = f" and {hours} GPU-hours" if device == CARD else ""
    return [
        f"{so_far}; {roughly(expected['seconds'])}{paid} left",
        f"  estimated for {expected['merges']:.0f} merge{'s' if expected['merges'] > 1 else ''} of "
        f"{duration(expected['each'])}, "
        f"the mean of {expected['measured']}, on {cards} {device}{'s' if cards > 1 else ''}",
    ]


def _speed(status: Entry) -> str:
    parts = []
    speed = status.get("tokens_a_second")
    if speed and speed["mean"]:
        parts.append(
            f"{speed['mean']:,.0f} tokens a second over the last {duration(speed['seconds'])}"
        )
    if status.get("tokens"):
        parts.append(f"{status['tokens']:,.0f} tokens in all")
    return ", ".join(parts)


def _result(status: Entry) -> str:
    if not status.get("front"):
        return ""
    parts = [front_in_words(status["hypervolume"], len(status["front"]))]
    if status.get("load_rate") is not None:
        parts.append(f"load rate {status['load_rate']:.1%}")
    counts = status["evaluations"]
    shown = ("paused", "stopped", "queued", "failed")
    parts += [f"{counts[name]} {name}" for name in shown if counts.get(name)]
    return ", ".join(parts)


def _others(workers: Sequence[Entry | None]) -> str:
    """What the workers that are not shown are doing, counted."""
    states = [worker["state"] if worker else "starts" for worker in workers]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"and {len(workers)} more: {counts}"


def completion(done: Entry, objectives: Sequence[str]) -> str:
    """One completed evaluation in a line."""
    scores = ", ".join(
        f"{name} {value:.3f}" for name, value in zip(objectives, done["objectives"], strict=False)
    )
    beyond = f"  breaks {', '.join(done['breaks'])}" if done.get("breaks") else ""
    means = _means_in_words(done["metrics"])
    return f"{done['id']}  {scores}  {means}  {done['seconds']:.1f} s{beyond}"


def _means_in_words(metrics: Mapping[str, Entry]) -> str:
    names = [name for name in ("accuracy", "tokens") if _mean(metrics, name) is not None]
    return in_words({name: _mean(metrics, name) or 0.0 for name in names}, names)


def _mean(metrics: Mapping[str, Entry], name: str) -> float | None:
    """A metric's mean over the benchmarks; None where one of them has no such metric."""
    values = [benchmark.get(name) for benchmark in metrics.values()]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _marks_of(sources: Iterable[str]) -> dict[str, str]:
    """The character that stands for each source: its initial, or its number where two share one."""
    names = list(sources)
    initials = [name[0].upper() for name in names]
    own = len(set(initials)) == len(names)
    return {name: initials[n] if own else str(n + 1) for n, name in enumerate(names)}


def _plotted(status: Entry) -> tuple[list[Mark], Axis, Axis] | None:
    """Marks and axes: accuracy against tokens, or else the first two objectives; None if neither.

    Means over all benchmarks.
    """
    front = list(status.get("front", ()))
    others = [done for done in status.get("recent", ()) if not done["on_front"]]
    sources = _marks_of(status.get("references", {}))
    references = [
        {"metrics": status["references"][name], "character": mark} for name, mark in sources.items()
    ]
    points = [
        *({**point, "character": "~"} for point in estimated(status)),
        *({**point, "character": "x" if point.get("breaks") else "."} for point in others),
        *references,
        *({**point, "character": "o"} for point in front),
    ]
    means = [
        (_mean(point["metrics"], "tokens"), _mean(point["metrics"], "accuracy"), point["character"])
        for point in points
    ]
    marks = [Mark(x, y, mark) for x, y, mark in means if x is not None and y is not None]
    if marks:
        accuracy = metric("accuracy")
        return marks, Axis("tokens", lambda x: f"{x:,.0f}"), Axis("accuracy", accuracy.text)
    names = status.get("objectives", ())
    marks = [
        Mark(point["objectives"][0], point["objectives"][1], point["character"])
        for point in points
        if len(point.get("objectives", ())) > 1
    ]
    first, second = (Axis(name, lambda value: f"{value:.2f}") for name in (*names, "", "")[:2])
    return (marks, first, second) if marks else None
