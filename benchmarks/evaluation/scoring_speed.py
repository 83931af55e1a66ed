"""What scores cost beside answers, for each adapter, with EvalScope in a process of its own.

    python -m benchmarks.evaluation.scoring_speed [--questions 400] [--tokens 400]
        [--engine stand-in] [--adapters aime25 ...] [--before]

An engine on one core answers the questions of each adapter: a tiny random model in the real vLLM,
or (`--engine stand-in`) worked examples at a steady number of tokens a step, each step of which is
a computation of the same size. Evaluations are made as a worker makes them, with EvalScope in the
scoring process, and with `--before` also in the process of the engine, as it once was. The
questions of each adapter, as the model sees them, are also asked through the adapter for exact
match, so that the engine has the same work. All are in one run, each after one evaluation that
warms up.

The gap is the time from the last token of an evaluation to the first request of the next one,
without load and proposal. The engine is busy for the rest of the time.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from apbmm_common.datasets.benchmark_folders.selection import places_of
from apbmm_common.run_file import BenchmarkSection, EngineSection, GenerationSection
from apbmm_common.run_file.sections.benchmarks import EXACT_ADAPTER
from apbmm_worker import environment
from apbmm_worker.engine.driver import Completion, EngineDriver, Prompt
from apbmm_worker.evaluation.answering import Answering
from apbmm_worker.evaluation.scoring.client import ScoringClient
from apbmm_worker.evaluation.scoring_protocol import EvalScopeResult
from benchmarks.evaluation.adapter_questions import ROWS, write_benchmark
from benchmarks.tables import command_line

if TYPE_CHECKING:
    from apbmm_worker.engine.resident import ResidentEngine

CONTEXT = 4096
APART, TOGETHER = "apart", "in the engine's process"
SEQUENCES = 64
"""Requests that an engine computes at once."""
STAND_IN_SIZE = 800
STAND_IN_BYTES = 1 << 30
VOCABULARY = 128
"""An answer ends with one token of these, so a random model writes about as many."""
SCORED = [adapter for adapter in ROWS if adapter != EXACT_ADAPTER]


class StandIn:
    """Stands in for vLLM behind the worker's own driver: the same answers and steps each time."""

    def __init__(self) -> None:
        import torch

        self._matrix = torch.randn(STAND_IN_SIZE, STAND_IN_SIZE)
        # vLLM's process is larger than this one; a fork copies its page tables.
        self._ballast = torch.ones(STAND_IN_BYTES, dtype=torch.uint8)
        self._waiting: deque[tuple[str, Prompt]] = deque()
        self._running: dict[str, tuple[Prompt, int, float]] = {}

    def add(self, key: str, prompt: Prompt) -> None:
        """Take a request in."""
        self._waiting.append((key, prompt))

    def step(self) -> list[tuple[str, Completion]]:
        """One computation, and one token of every running request."""
        while self._waiting and len(self._running) < SEQUENCES:
            key, prompt = self._waiting.popleft()
            length = 20 + int(random.Random(prompt.seed).expovariate(0.01))
            self._running[key] = (prompt, length, time.monotonic())
        self._matrix @ self._matrix
        finished = []
        for key, (prompt, left, start) in list(self._running.items()):
            self._running[key] = (prompt, left - 1, start)
            if left == 1:
                del self._running[key]
                finished.append((key, worked(prompt, time.monotonic() - start)))
        return finished

    def busy(self) -> bool:
        """Whether requests are unfinished."""
        return bool(self._waiting or self._running)

    def unfinished(self, keys: Sequence[str]) -> list[tuple[str, Completion]]:  # noqa: ARG002
        """Nothing: no evaluation here is a step."""
        return []

    def token_counts(self, keys: Sequence[str]) -> dict[str, int]:  # noqa: ARG002
        """Nothing: no evaluation here may be stopped."""
        return {}

    def abort(self, keys: Sequence[str]) -> None:
        """Drop requests."""
        for key in keys:
            self._running.pop(key, None)

    def close(self) -> None:
        """Nothing to free."""


def worked(prompt: Prompt, seconds: float) -> Completion:
    """A worked example that ends in a number or a fraction, by the prompt's seed."""
    draw = random.Random(prompt.seed)
    steps = [f"${draw.randint(1, 99)} + x = {draw.randint(1, 99)}$." for _ in range(12)]
    number = draw.randint(0, 999)
    answer = draw.choice([str(number), rf"\frac{{{number}}}{{7}}", rf"\sqrt{{{number}}}"])
    text = " So ".join([*steps, rf"the answer is \boxed{{{answer}}}."])
    return Completion(text, tuple(range(len(text) // 3)), len(prompt.token_ids), "stop", seconds)


@dataclass(frozen=True)
class Bench:
    """A started engine, its model, the settings of its answers, and a folder."""

    engine: ResidentEngine | EngineDriver[StandIn]
    model: Path
    generation: GenerationSection
    folder: Path
    clients: dict[str, ScoringClient] = field(default_factory=dict)

    def scoring(self, section: BenchmarkSection) -> ScoringClient:
        """The scoring process of one benchmark."""
        if section.name not in self.clients:
            self.clients[section.name] = self._started(section)
        return self.clients[section.name]

    def _started(self, section: BenchmarkSection) -> ScoringClient:
        return ScoringClient(
            [section],
            {section.name: places_of(section)},
            self.generation,
            self.model,
            self.folder / "scratch",
            self.folder / "scoring.log",
        )

    def apart(self, client: ScoringClient) -> EvalScopeResult:
        """An evaluation with EvalScope in a process of its own."""
        return measured(lambda: client.evaluate(self.engine, self.folder / "out", lambda *_: None))

    def together(self, section: BenchmarkSection) -> EvalScopeResult:
        """An evaluation with EvalScope in this process."""
        from apbmm_worker.evaluation.evalscope.evaluate import evaluate
        from apbmm_worker.evaluation.evalscope.questions import prepare_benchmarks

        prepared = prepare_benchmarks(
            [section],
            {section.name: places_of(section)},
            self.generation,
            self.model,
            self.folder / "scratch",
        )
        engine: Answering = self.engine
        return measured(lambda: evaluate(engine, prepared, self.folder / "out", lambda *_: None))


def measured(evaluate: Callable[[], EvalScopeResult]) -> EvalScopeResult:
    """The second of two evaluations."""
    evaluate()
    return evaluate()


def table(bench: Bench, adapters: Sequence[str], questions: int, ways: Sequence[str]) -> list[str]:
    """Lines of a Markdown table."""
    pairs = []
    problems = [(f"{n} + {n}?", str(2 * n)) for n in range(questions)]
    for adapter in adapters:
        section = write_benchmark(adapter, adapter, problems, bench.folder)
        texts = bench.scoring(section).benchmarks()[0].texts
        plain = [(text, "0") for text in texts]
        exact = write_benchmark(EXACT_ADAPTER, f"{adapter}-exact", plain, bench.folder)
        pairs.append((adapter, (exact, section)))
    found: list[tuple[str, str, list[EvalScopeResult]]] = []
    # Scoring apart comes first: the other way imports EvalScope into this process.
    for way in ways:
        for adapter, sections in pairs:
            if way == APART:
                results = [bench.apart(bench.scoring(section)) for section in sections]
                for section in sections:
                    bench.clients.pop(section.name).close()
            else:
                results = [bench.together(section) for section in sections]
            found.append((adapter, way, results))
            print(f"{adapter}, {way}: measured", file=sys.stderr)
    lines = [
        "| adapter | EvalScope | answers | last token to results (gap) | engine busy "
        "| all, times exact match |",
        "|---|---|---|---|---|---|",
    ]
    for adapter, way, (exact_result, result) in found:
        whole = exact_result.seconds + exact_result.report_seconds
        for name, r in ((f"exact match, questions of {adapter}", exact_result), (adapter, result)):
            both = r.seconds + r.report_seconds
            lines.append(
                f"| {name} | {way} | {r.seconds:.2f} s | {r.report_seconds:.2f} s "
                f"| {r.seconds / both:.1%} | {both / whole:.2f} |"
            )
    return lines


def started(
    kind: str, model: Path, generation: GenerationSection
) -> ResidentEngine | EngineDriver[StandIn]:
    """An engine."""
    if kind == "stand-in":
        import torch

        torch.set_num_threads(1)
        return EngineDriver(StandIn)
    from apbmm_worker.engine.resident import ResidentEngine

    limits = {"kv_cache_memory_bytes": 512 << 20, "max_num_seqs": SEQUENCES}
    settings = EngineSection(arguments=limits)
    return ResidentEngine(settings, generation, model, environment.CPU)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", nargs="+", choices=SCORED, default=SCORED)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--engine", choices=("vllm", "stand-in"), default="vllm")
    parser.add_argument("--tokens", type=int, default=400, help="longest answer")
    parser.add_argument("--before", action="store_true", help="in one process as well")
    arguments = parser.parse_args()
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment.apply(environment.CPU, folder / "scratch")
        from benchmarks.merging.random_qwen3 import Shape, write_random

        shape = Shape(4, 128, 256, 4, 2, VOCABULARY, 32)
        model = write_random(folder / "model", shape, 1, CONTEXT)
        generation = GenerationSection(
            max_tokens=arguments.tokens, context=CONTEXT, temperature=1.0
        )
        engine = started(arguments.engine, model, generation)
        ways = (APART, TOGETHER) if arguments.before else (APART,)
        bench = Bench(engine, model, generation, folder)
        lines = table(bench, arguments.adapters, arguments.questions, ways)
        engine.close()
    print(f"Made by `{command_line()}`.")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "evalscope"))
    print(f"Python {platform.python_version()}, {libraries}; {cores} cores, load {load:.1f}.\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
