"""What an evaluation takes after its last token, by the number of questions.

    python -m benchmarks.evaluation.after_last_token [--questions 2000 15000] [--rate 400]

Runs the worker's evaluation with the real EvalScope, in its process, on the demo pair's questions,
each as often as it takes. Answers come at a steady rate instead of from an engine: on a CPU an
engine would take EvalScope's share of it. The time runs from the last answer to the results.

For comparison, the rows that EvalScope wrote are read back from its files in the same run, which is
what has to be added where results are taken from there; both ways must give the same outcomes.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any

from apbmm.demo.command import DemoOptions, demo_run
from apbmm_common.datasets.benchmark_folders.selection import places_of
from apbmm_common.protocol.messages import OutcomeRow
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.evalscope.evaluate import mean_name
from apbmm_worker.evaluation.evalscope.questions import (
    PreparedBenchmark,
    PreparedBenchmarks,
    prepare_benchmarks,
)
from apbmm_worker.evaluation.outcomes import benchmark_result, outcomes_of
from apbmm_worker.evaluation.scoring.client import ScoringClient
from apbmm_worker.evaluation.scoring_protocol import EvalScopeResult
from benchmarks.evaluation.adapter_questions import demo_problems, write_benchmark
from benchmarks.tables import command_line

SYMBOLS = "0123456789ABCDEFGHIJ"


class PacedAnswers:
    """Stands in for an engine: answers of 7 to 62 symbols, ``rate`` a second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        """All answers are under way."""
        futures: list[Future[Completion]] = [Future() for _ in prompts]
        threading.Thread(target=self._answer, args=(prompts, futures), daemon=True).start()
        return futures

    def abort(self) -> None:
        """Nothing of this survives the run."""

    def cut(self) -> None:
        """No evaluation here is a step."""

    def _answer(self, prompts: Sequence[Prompt], futures: list[Future[Completion]]) -> None:
        draw, start = random.Random(1), time.monotonic()
        for n, (prompt, future) in enumerate(zip(prompts, futures, strict=True)):
            time.sleep(max(0.0, start + n / self._rate - time.monotonic()))
            text = " ".join([*draw.choices(SYMBOLS, k=draw.randint(5, 60)), "#", "5"])
            ids = tuple(range(len(text) // 2 + 1))
            future.set_result(Completion(text, ids, len(prompt.token_ids), "stop", 0.5))


def prepared_demo(questions: int, folder: Path) -> tuple[PreparedBenchmarks, ScoringClient]:
    """The demo pair's benchmarks with about so many questions in all, here and to be scored."""
    spec = demo_run(DemoOptions(), None)
    problems = [demo_problems(benchmark) for benchmark in spec.benchmarks]
    times = max(1, round(questions / sum(map(len, problems))))
    benchmarks = [
        write_benchmark(benchmark.adapter, benchmark.name, found * times, folder)
        for benchmark, found in zip(spec.benchmarks, problems, strict=True)
    ]
    folders = {benchmark.name: places_of(benchmark) for benchmark in benchmarks}
    source = Path(spec.sources.folders["instruct"])
    inputs = (benchmarks, folders, spec.generation, source, folder / "scratch")
    return prepare_benchmarks(*inputs), ScoringClient(*inputs, folder / "scoring.log")


def read_back(benchmark: PreparedBenchmark, folder: Path) -> tuple[OutcomeRow, ...]:
    """The outcomes as EvalScope's files have them."""
    from evalscope.api.evaluator.cache import ModelResult, ReviewResult

    adapter = benchmark.chosen.benchmark.adapter

    def rows(kind: str, form: Any) -> list[tuple[str, Any]]:
        return [
            (file.stem.removeprefix(f"{adapter}_"), form.model_validate_json(line))
            for file in (folder / kind).glob("*/*.jsonl")
            for line in file.read_text(encoding="utf-8").split("\n")
            if line
        ]

    places = {question.place: question.identity for question in benchmark.questions}
    recorded = (rows("predictions", ModelResult), rows("reviews", ReviewResult))
    outcomes = outcomes_of(*recorded, adapter, places, mean_name)
    return benchmark_result(outcomes).outcomes


def measure(
    prepared: PreparedBenchmarks, scoring: ScoringClient, rate: float, out: Path
) -> tuple[EvalScopeResult, float]:
    """One evaluation, and the seconds that reading its files back takes."""
    found = scoring.evaluate(PacedAnswers(rate), out, lambda *_: None)
    start = time.monotonic()
    on_disk = {b.name: read_back(b, out / b.name) for b in prepared.benchmarks}
    seconds = time.monotonic() - start
    if on_disk != {name: result.outcomes for name, result in found.benchmarks.items()}:
        raise SystemExit("EvalScope's files say something else than the results")
    return found, seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, nargs="+", default=[2000, 15000])
    parser.add_argument("--rate", type=float, default=400.0, help="answers a second")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    lines = []
    for wanted in arguments.questions:
        with tempfile.TemporaryDirectory() as temporary:
            prepared, scoring = prepared_demo(wanted, Path(temporary))
            asked = sum(len(benchmark.questions) for benchmark in prepared.benchmarks)
            out = Path(temporary) / "out"
            runs = [
                measure(prepared, scoring, arguments.rate, out) for _ in range(arguments.repeat)
            ]
            scoring.close()
        report = statistics.median(found.report_seconds for found, _ in runs)
        back = statistics.median(seconds for _, seconds in runs)
        lines.append(
            f"| {asked} | {report:.2f} s | {back:.2f} s | {(report + back) / report:.1f} |"
        )
    print(f"Made by `{command_line()}`.")
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"Python {platform.python_version()}, evalscope {version('evalscope')}; ", end="")
    print(f"{cores} cores, load {load:.1f}; medians of {arguments.repeat}.\n")
    print("| questions | last answer to results | reading the files back | with it, times |")
    print("|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
