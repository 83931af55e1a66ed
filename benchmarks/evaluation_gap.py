"""Where the seconds between two evaluations go, on the demo pair with one worker.

    python benchmarks/evaluation_gap.py [--evaluations 16] [--initial 8] [--repeat 1]

Runs the demo with the real vLLM and EvalScope (or reads a run that is there) and takes the times
from its journal. From the last token of one evaluation to the first request of the next lie:
EvalScope's report, the result's way to the master and into its journal, the proposal, the
assignment's way back, and the hot-load. What is printed as the gap is all of that but the proposal:
the time from one result to the next, less that in which the engine evaluated and less the proposal.

``--repeat`` asks every question so many times, which makes evaluations as much longer: with those
of a minute or more, the engine is to be busy 95 % of the search.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from apbmm.demo.command import DemoOptions, demo_run
from apbmm.demo.processes import run_processes
from apbmm_common.datasets.benchmark_folders import places_of
from apbmm_common.datasets.demo_pair import RUN_FILE
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import RunSpec, run_as_toml
from apbmm_master.journal.run_state import RunState
from apbmm_master.journal.store import read_journal
from apbmm_master.status.stages import stage_summary

EVALUATE = "evaluate"


@dataclass(frozen=True)
class Gap:
    """Seconds from one result of the search to the next.

    ``stages`` are the worker's, the evaluation itself included.
    """

    total: float
    proposal: float
    stages: dict[str, float]

    @property
    def beyond(self) -> float:
        """Without the evaluation and the proposal."""
        return self.total - self.stages[EVALUATE] - self.proposal

    @property
    def parts(self) -> dict[str, float]:
        """What `beyond` is made of; the rest is messages, journal and processes' turns."""
        known = {stage: s for stage, s in self.stages.items() if stage != EVALUATE}
        return {**known, "the rest": self.beyond - sum(known.values())}


def gaps(run_state: RunState) -> list[Gap]:
    """Every gap before an evaluation of the search.

    Of one worker: every proposal is made while it waits.
    """
    proposals = {
        name: ask.seconds / len(ask.evaluations)
        for ask in run_state.asks
        for name in ask.evaluations
    }
    done = [run_state.evaluations[name] for name in run_state.completed]
    return [
        Gap(after.done_at - before.done_at, proposals[after.id], after.body.stages)
        for before, after in pairwise(done)
        if after.purpose == "search" and isinstance(after.body, Evaluated)
    ]


def run_demo(run_dir: Path, wishes: argparse.Namespace) -> None:
    """Run the demo with one worker and ``wishes.repeat`` times its questions."""
    spec = demo_run(DemoOptions(evaluations=wishes.evaluations), None)
    budget = spec.budget.model_copy(update={"initial": min(wishes.initial, wishes.evaluations)})
    spec = spec.model_copy(update={"budget": budget})
    run_dir.mkdir(parents=True, exist_ok=True)
    if wishes.repeat > 1:
        spec = repeated(spec, wishes.repeat, run_dir)
    (run_dir / RUN_FILE).write_text(run_as_toml(spec), encoding="utf-8")
    with _output_as_errors():
        code = run_processes(run_dir, 1, rehearsal=False)
    if code:
        raise SystemExit(code)


@contextlib.contextmanager
def _output_as_errors() -> Iterator[None]:
    """What the run's processes print goes to standard error, so that a table is all there is."""
    kept = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        yield
    finally:
        os.dup2(kept, sys.stdout.fileno())
        os.close(kept)


def repeated(spec: RunSpec, times: int, folder: Path) -> RunSpec:
    """The run with every question of its benchmarks so many times, written below ``folder``."""
    benchmarks = []
    for benchmark in spec.benchmarks:
        file = folder / "questions" / benchmark.name / "test.jsonl"
        file.parent.mkdir(parents=True)
        (source,) = places_of(benchmark)
        lines = (source / file.name).read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        with file.open("w", encoding="utf-8") as out:
            for time in range(times):
                for record in records:
                    out.write(json.dumps({**record, "id": f"{record['id']}-{time}"}) + "\n")
        benchmarks.append(benchmark.model_copy(update={"path": str(file.parent)}))
    return spec.model_copy(update={"benchmarks": tuple(benchmarks)})


def report(run_state: RunState) -> list[str]:
    """Lines of a Markdown table, and the busy share below it."""
    found = gaps(run_state)
    if not found:
        raise SystemExit("no evaluation of the search has a result")
    columns: dict[str, list[float]] = {
        "evaluation": [gap.stages[EVALUATE] for gap in found],
        "proposal": [gap.proposal for gap in found],
        "gap beyond the proposal": [gap.beyond for gap in found],
    }
    for part in sorted({part for gap in found for part in gap.parts}):
        columns[f"of it: {part}"] = [gap.parts.get(part, 0.0) for gap in found]
    lines = [f"| {len(found)} evaluations of the search | median | longest |", "|---|---|---|"]
    lines += [
        f"| {name} | {statistics.median(values):.2f} s | {max(values):.2f} s |"
        for name, values in columns.items()
    ]
    busy = stage_summary(run_state)["engine_busy"]
    return [*lines, "", f"The engine was busy {busy:.1%} of the search."]


def main() -> None:
    """Run the demo unless it is there, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=16)
    parser.add_argument("--initial", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--run-dir", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run_dir = arguments.run_dir or Path(temporary) / "run"
        if not run_dir.exists():
            run_demo(run_dir, arguments)
        lines = report(RunState().replay(read_journal(run_dir)))
    command = " ".join(["python benchmarks/evaluation_gap.py", *sys.argv[1:]])
    print(f"Made by `{command}`.")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "evalscope"))
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {libraries}; {cores} cores, load {load:.1f}.\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
