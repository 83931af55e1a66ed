"""Has the worker's evaluation child answer a few questions, with one source as it stands."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from apbmm.local_engine import ShowStage, evaluated_source, watched_job
from apbmm.questions.ask import render_questions
from apbmm.questions.messages import RenderedBenchmark
from apbmm_common.datasets.benchmark_folders.selection import places_of, select_questions
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import BenchmarkSection, RunSpec
from apbmm_worker.daemon.evaluation_job import EvaluationJob
from apbmm_worker.daemon.options import Options

EVALUATION = "try"


@dataclass(frozen=True)
class Trial:
    """The questions as the model saw them, the measurements, and the folder of the records."""

    questions: dict[str, RenderedBenchmark]
    evaluated: Evaluated
    outputs: Path


def with_few_questions(spec: RunSpec, most: int) -> RunSpec:
    """The run with the first ``most`` of each benchmark's questions, to be asked of a new engine.

    Each is asked once, for the first of the answers that ``repeats`` would ask for.

    Raises `SourceError` for data that cannot be used.
    """
    few = with_some_questions(spec, most, spread=False)
    # One evaluation needs no trial of loading in memory.
    engine = spec.engine.model_copy(update={"hot_load": "checkpoint"})
    return few.model_copy(update={"engine": engine})


def with_some_questions(spec: RunSpec, most: int, *, spread: bool = True) -> RunSpec:
    """The run with at most so many of each benchmark's questions, each asked once.

    They are ``spread`` over all of a benchmark's, or its first. Raises `SourceError` as above.
    """
    benchmarks = tuple(
        _some_of(benchmark, most, spec.generation.seed, spread=spread)
        for benchmark in spec.benchmarks
    )
    return spec.model_copy(update={"benchmarks": benchmarks})


def _some_of(
    benchmark: BenchmarkSection, most: int, seed: int, *, spread: bool
) -> BenchmarkSection:
    positions = select_questions(benchmark, places_of(benchmark), seed).positions
    if positions is None:
        first = min(most, benchmark.questions or most)
        return benchmark.model_copy(update={"questions": first, "repeats": 1})
    count = min(most, len(positions))
    places = (number * len(positions) // count if spread else number for number in range(count))
    chosen = tuple(positions[place] for place in places)
    these = {"questions": None, "sample": None, "question_ids": chosen, "holdout": 0.0}
    return benchmark.model_copy(update={**these, "repeats": 1})


async def evaluate_source(spec: RunSpec, source: str, options: Options, show: ShowStage) -> Trial:
    """Render the run's questions, and have ``source`` answer them; ``show`` gets each stage.

    Raises `UsageError` for a run file or data that cannot be used, `EvaluationError` or
    `ApbmmError` for everything else that fails. Cancelled, it leaves no process behind.
    """
    async with watched_job(options, show) as job:
        work = asyncio.create_task(_evaluated(job, spec, source))
        try:
            # Questions that cannot be rendered are the run file's fault, told before others.
            rendered = await render_questions(
                spec,
                options.scratch / "rendered",
                most=sys.maxsize,
                allowed_code=options.allow_remote_code,
            )
            evaluated = await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
    # `EvaluationJob` puts an evaluation's records below its run's folder.
    return Trial(rendered, evaluated, options.state / "outputs" / EVALUATION / EVALUATION)


async def _evaluated(job: EvaluationJob, spec: RunSpec, source: str) -> Evaluated:
    prepared = await job.prepare(spec)
    return await evaluated_source(
        job, spec, source, prepared.layers, run=EVALUATION, evaluation=EVALUATION
    )
