"""`apbmm try`: a few questions of each benchmark, with prompt, answer, extraction and score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apbmm.check.inspect import inspect
from apbmm.check.view import print_faults
from apbmm.installed import ENGINES, EVALUATION, on_cpu, require_installed
from apbmm_common.errors import EXIT_DONE, EXIT_USAGE, UsageError
from apbmm_common.run_file import RunSpec

if TYPE_CHECKING:
    from apbmm.try_run.evaluation import Trial
    from apbmm.try_run.view import TriedBenchmark


@dataclass(frozen=True)
class TryRequest:
    """The options of the command; None takes the default."""

    run_file: Path
    source: str | None = None
    questions: int = 5
    gpu: str | None = None
    allow_remote_code: bool = False
    as_json: bool = False


def run_try(request: TryRequest) -> int:
    """Ask a few questions of each benchmark and print what came of them; returns the exit code.

    Raises `UsageError` for options, a run file or a host with which nothing can be asked, and
    `ApbmmError` for an engine or an evaluation that fails.
    """
    from apbmm_worker.daemon.options import parse_gpu

    gpu = parse_gpu(request.gpu or default_gpu())
    if gpu == "rehearsal":
        raise UsageError("--gpu rehearsal: nothing is asked in a rehearsal", "give a card, or cpu")
    found = inspect(request.run_file)
    if found.faults:
        print_faults(found)
        return EXIT_USAGE
    spec = found.spec
    assert spec is not None
    if request.source is not None and request.source not in spec.sources.names:
        raise UsageError(
            f"--source {request.source}: no source of {request.run_file} is called so",
            f"one of {', '.join(spec.sources.names)}",
        )
    if spec.evaluation.kind == "rehearsal":
        raise UsageError(
            f"{request.run_file} is a rehearsal, which asks no model anything",
            'take kind = "rehearsal" out of its [evaluation]',
        )
    require_packages(spec.engine.kind)
    return _try(request, spec, gpu)


def _try(request: TryRequest, spec: RunSpec, gpu: str) -> int:
    from apbmm.local_engine import local_engine, work_in_stages
    from apbmm.results.json_form import print_json
    from apbmm.try_run.evaluation import evaluate_source, with_few_questions
    from apbmm.try_run.view import as_json, report

    source = request.source or spec.generation.template_from
    few = with_few_questions(spec, request.questions)
    with local_engine("try", gpu, allow_remote_code=request.allow_remote_code) as options:
        trial = work_in_stages(
            source, options, lambda show: evaluate_source(few, source, options, show)
        )
        tried = list(_tried(few, trial))
    if request.as_json:
        print_json(as_json(spec.name, source, tried))
    else:
        print("\n".join(report(source, tried)))  # noqa: T201
    return EXIT_DONE


def _tried(few: RunSpec, trial: Trial) -> Iterator[TriedBenchmark]:
    """What came of each benchmark's questions; the records are read while they are there."""
    from apbmm.check.questions import rendered_warnings
    from apbmm.try_run.records import tried_questions
    from apbmm.try_run.view import TriedBenchmark

    for benchmark in few.benchmarks:
        records = trial.outputs / benchmark.name
        rendered = trial.questions[benchmark.name]
        yield TriedBenchmark(
            benchmark.name,
            benchmark.adapter,
            tried_questions(records, benchmark.adapter, rendered.first),
            trial.evaluated.benchmarks[benchmark.name],
            tuple(rendered_warnings(rendered)),
        )


def default_gpu() -> str:
    """Card 0, or the CPU where a CPU build of PyTorch is installed."""
    return "cpu" if on_cpu() else "0"


def require_packages(engine: str, command: str = "apbmm try") -> None:
    """Raise `UsageError` unless what a worker with this kind of engine needs is installed."""
    require_installed(
        f"{command} runs a model",
        (*EVALUATION, *ENGINES.get(engine, ())),
        "pip install '.[worker]', or '.[worker-cpu]', in the folder of apbmm's sources",
    )
