"""Where the seconds between two evaluations go, for each kind of adapter, with one worker.

    python -m benchmarks.evaluation.gap [--adapters aime25 ...] [--evaluations 8] [--sequences 64]
        [--times 1] [--report-seconds 10] [--device cuda:0]

Runs the demo pair with the real vLLM and EvalScope, once for each adapter: the demo's problems are
asked as a benchmark of that adapter, without a prompt of its own around them. The times come from
the run's journal. From the last token of one evaluation to the first request of the next lie:
EvalScope's report, the result's way to the master and into its journal, the proposal, the
assignment's way back, and the hot-load. The gap is all of that but proposal and load.

The fewer ``--sequences`` the engine computes at once, and the more ``--times`` every question is
asked, the longer an evaluation takes. The last column tells how busy the engine would be with
evaluations of a minute, by the medians of its row.

With ``--report-seconds`` exact match takes so much longer for its report, and the next merge is
evaluated meanwhile. Told is how busy the engine was, and how busy it would have been if it had
waited for each report, by the stages of the same evaluations.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from apbmm.demo.command import DemoOptions, demo_run, demo_workers, search_of
from apbmm.run.processes import run_processes
from apbmm_common.datasets.demo_pair import RUN_FILE
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import ObjectiveSection, RunSpec, run_as_toml
from apbmm_common.run_file.sections.benchmarks import EXACT_ADAPTER
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from apbmm_master.status.stages import stage_summary
from benchmarks.evaluation.adapter_questions import (
    ROWS,
    demo_problems,
    plain_prompt,
    write_benchmark,
)
from benchmarks.tables import command_line

MINUTE = 60.0
SLOW_REPORT = "slow_report"
"""The adapter of `slow_report.py`."""
OBJECTIVES = tuple(
    ObjectiveSection(name=metric, metric=metric, expert="instruct", vanilla="thinking")
    for metric in ("tokens", "seconds")
)
"""Not every adapter finds the answers of the demo pair, so accuracy would scale no objective."""
HEAD = (
    "| adapter | evaluations of the search | evaluation | proposal | load | gap (longest) "
    "| of it report | engine busy | with evaluations of a minute |",
    "|---|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Between:
    """Seconds from one result of the search to the next: the worker's stages, and the rest."""

    evaluation: float
    proposal: float
    load: float
    report: float
    gap: float

    @property
    def idle(self) -> float:
        """Seconds in which the engine does not evaluate."""
        return self.proposal + self.load + self.gap


def measured(run_state: RunState) -> list[Between]:
    """What lies before each evaluation of the search.

    Of one worker: every proposal is made while it waits.
    """
    proposals = {
        name: ask.seconds / len(ask.evaluations)
        for ask in run_state.asks
        for name in ask.evaluations
    }
    found = []
    for before, after in pairwise(run_state.evaluations[name] for name in run_state.completed):
        if after.purpose == "search" and isinstance(after.body, Evaluated):
            stages = after.body.stages
            proposal, total = proposals[after.id], after.done_at - before.done_at
            gap = total - stages["evaluate"] - stages["load"] - proposal
            found.append(
                Between(stages["evaluate"], proposal, stages["load"], stages["report"], gap)
            )
    return found


def adapted(adapter: str, wishes: argparse.Namespace, folder: Path) -> RunSpec:
    """The demo's run with the problems of one of its benchmarks, in the form of the adapter."""
    spec = demo_run(DemoOptions(evaluations=wishes.evaluations), None)
    chain, trail = spec.benchmarks
    problems = demo_problems(trail if adapter == "general_mcq" else chain) * wishes.times
    benchmark = write_benchmark(adapter, adapter, problems, folder, plain_prompt(adapter))
    budget = {"initial": max(1, wishes.evaluations // 2), "any_references": True}
    engine = {"arguments": {**spec.engine.arguments, "max_num_seqs": wishes.sequences}}
    slow = {}
    if wishes.report_seconds:
        slowly = {"adapter": SLOW_REPORT, "path": str(folder / adapter)}
        benchmark = benchmark.model_copy(update=slowly)
        slow["adapters"] = str(Path(__file__).with_name(f"{SLOW_REPORT}.py"))
    return spec.model_copy(
        update={
            **slow,
            "benchmarks": (benchmark,),
            "objectives": OBJECTIVES,
            "budget": spec.budget.model_copy(update=budget),
            "engine": spec.engine.model_copy(update=engine),
        }
    )


def row(adapter: str, wishes: argparse.Namespace, folder: Path) -> str:
    """Run the demo with one worker and this adapter, and make its row of the Markdown table."""
    run_dir = folder / f"run-{adapter}"
    run_dir.mkdir()
    spec = adapted(adapter, wishes, run_dir / "questions")
    (run_dir / RUN_FILE).write_text(run_as_toml(spec), encoding="utf-8")
    options = ("--keys", "none", "--allow-remote-code")
    device = wishes.device.removeprefix("cuda:")
    workers = [replace(w, gpu=device, options=options) for w in demo_workers(1, rehearsal=False)]
    with _output_as_errors():
        code = run_processes(run_dir, workers, search_of(run_dir))
    if code:
        raise SystemExit(code)
    run_state = RunState().replay(read_journal(run_dir))
    if wishes.report_seconds:
        return beside_reports(run_state)
    found = measured(run_state)
    medians = [
        statistics.median(getattr(between, name) for between in found)
        for name in ("evaluation", "proposal", "load", "gap", "report", "idle")
    ]
    evaluation, proposal, load, gap, report, idle = medians
    longest = max(between.gap for between in found)
    return (
        f"| {adapter} | {len(found)} | {evaluation:.2f} s | {proposal:.2f} s | {load:.2f} s "
        f"| {gap:.2f} s ({longest:.2f} s) | {report:.2f} s "
        f"| {stage_summary(run_state)['engine_busy']:.1%} | {MINUTE / (MINUTE + idle):.1%} |"
    )


def beside_reports(run_state: RunState) -> str:
    """How busy the engine was, and would have been if it had waited for each report."""
    search = [run_state.evaluations[name] for name in run_state.completed]
    stages = [
        evaluation.body.stages
        for evaluation in search
        if evaluation.purpose == "search" and isinstance(evaluation.body, Evaluated)
    ]
    asks = [a.seconds / len(a.evaluations) for a in run_state.asks if a.purpose == "search"]
    evaluated, reported, loaded = (
        sum(each[name] for each in stages) for name in ("evaluate", "report", "load")
    )
    waiting = evaluated / (evaluated + reported + loaded + sum(asks))
    busy = stage_summary(run_state)["engine_busy"]
    mean_evaluation, mean_report = evaluated / len(stages), reported / len(stages)
    return (
        f"{len(stages)} evaluations of {mean_evaluation:.1f} s, reports of {mean_report:.1f} s: "
        f"engine busy {busy:.1%}; had it waited for each report, {waiting:.1%}"
    )


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


def main() -> None:
    """Run the demo with each adapter, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--evaluations", type=int, default=8, help="half of them by the model")
    parser.add_argument("--sequences", type=int, default=64, help="answers computed at once")
    parser.add_argument("--times", type=int, default=1, help="each question is asked so often")
    parser.add_argument("--report-seconds", type=float, default=0.0, help="see above")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:N")
    wishes = parser.parse_args()
    if wishes.report_seconds:
        os.environ["REPORT_SECONDS"] = str(wishes.report_seconds)
        wishes.adapters = [EXACT_ADAPTER]
    print(f"Made by `{command_line()}`.")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "evalscope"))
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {libraries}; {cores} cores, load {load:.1f}.\n")
    if not wishes.report_seconds:
        print("\n".join(HEAD), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for adapter in wishes.adapters:
            print(row(adapter, wishes, Path(temporary)), flush=True)


if __name__ == "__main__":
    main()
