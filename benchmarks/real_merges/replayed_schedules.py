"""Asynchronous against synchronous searches on four workers, with the durations of real merges.

    python -m benchmarks.real_merges.replayed_schedules STORE --out OUT [--gantt FILE.svg]

STORE is one of `searches.py`. The merges of each of its campaigns are evaluated in their order
on simulated workers, for as long as a GPU would take for the tokens of their real answers
(`evaluation_time`). Proposals take no time.

- `asynchronous`: a free worker takes the next merge, but the initial design is waited for (AP-BMM);
- `no waiting`: nor is the initial design waited for (`ap-bmm-plus`);
- `synchronous`: the next four begin when the last four are done.

Load is the workers' busy share of the time: of all of it, without the initial design (from the
first dispatch after it), and without the tail as well (until the last dispatch). What a search
would have proposed in another order is not replayed, so this measures time alone, and not what is
found.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import numpy as np
import numpy.typing as npt

from apbmm.report.charts.drawing import Chart, ReportFigure, draw
from apbmm.report.charts.run_charts import gantt_chart
from apbmm.report.data.progress import Span, Timeline
from benchmarks.real_merges.evaluation_time import LANES, seconds_of
from benchmarks.real_merges.evaluations import Evaluations
from benchmarks.real_merges.searches import CAMPAIGNS, INITIAL, lines_of
from benchmarks.tables import half_width, made_by, markdown

Array = npt.NDArray[np.float64]
WORKERS = 4
SCHEDULES = ("asynchronous", "no waiting", "synchronous")


@dataclass(frozen=True)
class Schedule:
    """Begin, end and worker (n,) of each evaluation, in seconds, the initial design's first."""

    begins: Array
    ends: Array
    workers: npt.NDArray[np.intp]

    @property
    def hours(self) -> float:
        """From the first dispatch to the last result."""
        return float(self.ends.max()) / 3600.0

    def load(self, *, design: bool = True, tail: bool = True) -> float:
        """The workers' busy share, with or without the initial design and the tail."""
        begin = 0.0 if design else float(self.begins[INITIAL])
        end = float(self.ends.max() if tail else self.begins.max())
        busy = np.clip(self.ends, begin, end) - np.clip(self.begins, begin, end)
        return float(busy.sum()) / (WORKERS * (end - begin))


def scheduled(seconds: Sequence[float], kind: str) -> Schedule:
    """Evaluate in order on the workers, by one of `SCHEDULES`."""
    free = [(0.0, worker) for worker in range(WORKERS)]
    begins, ends = np.zeros(len(seconds)), np.zeros(len(seconds))
    workers = np.zeros(len(seconds), dtype=np.intp)
    for number, duration in enumerate(seconds):
        whole_batch = kind == "synchronous" and number % WORKERS == 0
        if whole_batch or (kind == "asynchronous" and number == INITIAL):
            free = [(max(free)[0], worker) for worker in range(WORKERS)]
        begins[number], workers[number] = heapq.heappop(free)
        ends[number] = begins[number] + duration
        heapq.heappush(free, (float(ends[number]), int(workers[number])))
    return Schedule(begins, ends, workers)


def timeline_of(schedule: Schedule) -> Timeline:
    """The schedule as the report of a run draws it, with each worker's load over all of it."""
    names = [f"worker {number + 1}" for number in schedule.workers]
    spans = tuple(
        Span(name, "initial" if number < INITIAL else "search", float(begin), float(end))
        for number, (name, begin, end) in enumerate(
            zip(names, schedule.begins, schedule.ends, strict=True)
        )
    )
    busy = {name: sum(s.end - s.begin for s in spans if s.worker == name) for name in names}
    last = float(schedule.ends.max())
    return Timeline(spans, {name: seconds / last for name, seconds in busy.items()})


def gantt(seconds: Sequence[float]) -> Chart:
    """What each worker does under each schedule, one below the other, in the same hours."""
    found = {kind: scheduled(seconds, kind) for kind in SCHEDULES}
    charts = [
        gantt_chart(timeline_of(schedule)).properties(title=f"{kind}: {schedule.hours:.1f} hours")
        for kind, schedule in found.items()
    ]
    drawn: alt.VConcatChart = alt.vconcat(*charts).resolve_scale(x="shared")
    return drawn


def rows_of(durations: Sequence[Sequence[float]]) -> list[list[str]]:
    """A row for each schedule: means over the campaigns, and time relative to the first."""
    rows = []
    first = np.array([scheduled(each, SCHEDULES[0]).hours for each in durations])
    for kind in SCHEDULES:
        found = [scheduled(each, kind) for each in durations]
        ratio = np.array([schedule.hours for schedule in found]) / first
        loads = [
            np.mean([schedule.load(design=design, tail=tail) for schedule in found])
            for design, tail in ((True, True), (False, True), (False, False))
        ]
        hours = np.mean([schedule.hours for schedule in found])
        spread = f" ± {half_width(ratio):.3f}" if len(ratio) > 1 else ""
        cells = [f"{hours:.2f}", f"{ratio.mean():.3f}{spread}"]
        rows.append([kind, *cells, *(f"{load:.3f}" for load in loads)])
    return rows


def main() -> None:
    """Write OUT.md, and OUT.json with the durations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, help="folder of evaluations and campaigns")
    parser.add_argument("--methods", nargs="+", default=["ap-bmm", "ap-bmm-plus"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gantt", type=Path, help="draw the last method's first campaign (SVG)")
    options = parser.parse_args()
    evaluations = Evaluations(options.store)
    campaigns = [c for c in lines_of(options.store / CAMPAIGNS) if c["method"] in options.methods]
    text = made_by(f"python -m benchmarks.real_merges.replayed_schedules STORE --out {options.out}")
    text += "\n" + "\n".join(__doc__.splitlines()[4:]) + "\n"
    kept = []
    for lanes in LANES:
        for method in options.methods:
            durations = [
                [round(seconds_of(evaluations.of(x), lanes), 1) for x in campaign["x"]]
                for campaign in campaigns
                if campaign["method"] == method
            ]
            kept.append({"lanes": lanes, "method": method, "seconds": durations})
            head = [
                "schedule", "hours", "times the first", "load", "without design", "nor tail",
            ]  # fmt: skip
            text += f"\n## `{method}`, {lanes} answers at once ({len(durations)} campaigns)\n\n"
            text += markdown([head, *rows_of(durations)])
    options.out.with_suffix(".md").write_text(text)
    lines = ",\n".join(json.dumps(entry) for entry in kept)
    options.out.with_suffix(".json").write_text(f"[\n{lines}\n]\n")
    if options.gantt:
        title = f"One search by {options.methods[-1]}, {LANES[-1]} answers at once on each worker"
        drawn = ReportFigure("schedules", title, "", gantt(kept[-1]["seconds"][0]))
        options.gantt.write_bytes(draw(drawn, "svg", rehearsal=False))


if __name__ == "__main__":
    main()
