"""`apbmm measure`: has one engine answer a run's questions with any checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import gmtime, strftime
from typing import Any

from apbmm.local_engine import ShowStage, local_engine, watched_job, work_in_stages
from apbmm.measure.questions import benchmark_paths, measured_alike, require_same_questions
from apbmm.pick.view import side_by_side
from apbmm.results.confirmation import read_confirmation
from apbmm.results.figures import BenchmarkFigures
from apbmm.results.json_form import evaluation_as_json, print_json, run_as_json
from apbmm.results.run_directories import find_run
from apbmm.results.run_results import EvaluationResult, RunResults, read_results
from apbmm.status.view import console
from apbmm.try_run.command import default_gpu, require_packages
from apbmm_common.errors import EXIT_DONE, UsageError
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.assessment.scores import objectives_of, raw_metrics, references_of
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.storage.store import OutcomeSums
from apbmm_master.search.errors import SearchError
from apbmm_master.search.reference_scaling import objective_vector
from apbmm_worker.daemon.options import Options, parse_gpu

SCHEMA = 1
MEASURED = "measured"
"""Folder of the run directory that keeps what was measured."""


@dataclass(frozen=True)
class MeasureRequest:
    """The options of the command; None takes the default."""

    run: str | None
    model: Path
    against: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    search_questions: bool = False
    gpu: str | None = None
    allow_remote_code: bool = False
    as_json: bool = False


def run_measure(request: MeasureRequest) -> int:
    """Measure a checkpoint and print it beside sources and merges; returns the exit code.

    Raises `UsageError` for a run or a folder with which nothing can be measured, and `ApbmmError`
    for an engine or an evaluation that fails.
    """
    search = _search(request)
    results = _run_asked(request, search)
    against = [measured_alike(results, search, name) for name in request.against]
    paths = benchmark_paths(results, request.paths)
    require_packages(results.spec.engine.kind)
    gpu = parse_gpu(request.gpu or default_gpu())
    model = request.model.resolve()
    with local_engine("measure", gpu, allow_remote_code=request.allow_remote_code) as own:
        options = replace(own, paths=paths)
        body = work_in_stages(
            request.model.name, options, lambda show: _evaluated(results, model, options, show)
        )
    require_same_questions(results, body)
    measured = measured_result(results, request.model.name or str(model), body)
    found = _as_json(results, measured, model)
    kept = _keep(search.run_dir, measured.id, found)
    if request.as_json:
        print_json(found)
    else:
        screen = console()
        screen.print(f"{results.run}: {_questions(results)}", markup=False)
        screen.print(side_by_side(results, [measured, *against, *results.references.values()]))
        screen.print(f"kept in {kept}", markup=False)
    return EXIT_DONE


def _search(request: MeasureRequest) -> RunResults:
    search = read_results(find_run(request.run))
    if search.rehearsal:
        raise UsageError(
            f"{search.label} is a rehearsal: no model was asked anything",
            "name the run directory of a search that evaluated models",
        )
    if not (request.model / "config.json").is_file():
        raise UsageError(
            f"{request.model} is not the folder of a checkpoint: it holds no config.json",
            "--model names a folder in Hugging Face layout",
        )
    return search


def _run_asked(request: MeasureRequest, search: RunResults) -> RunResults:
    """The search, or the run that confirms it, whose questions are asked."""
    confirmation = None if request.search_questions else read_confirmation(search)
    return confirmation.run if confirmation is not None else search


async def _evaluated(
    results: RunResults, model: Path, options: Options, show: ShowStage
) -> Evaluated:
    async with watched_job(options, show) as job:
        return await job.evaluate_folder(results.spec, model, "model")


def measured_result(results: RunResults, name: str, body: Evaluated) -> EvaluationResult:
    """What was measured, in the form of a run's evaluations, scaled by that run's references."""
    result = EvaluationResult(
        id=name,
        purpose="search",
        state=EvaluationState.DONE,
        vector=(),
        benchmarks={
            name: BenchmarkFigures.of(
                measured, OutcomeSums.of(measured.outcomes) if measured.outcomes else None
            )
            for name, measured in body.benchmarks.items()
        },
    )
    try:
        scaled = objective_vector(
            objectives_of(results.spec), raw_metrics(body), references_of(results.run_state)
        )
    except SearchError:  # the references cannot set a scale, or are not measured
        return result
    return replace(result, objectives=tuple(map(float, scaled)))


def _as_json(results: RunResults, measured: EvaluationResult, model: Path) -> dict[str, Any]:
    """What was measured as a JSON object; keys are only ever added within a schema."""
    return {
        "schema": SCHEMA,
        **run_as_json(results),
        "model": str(model),
        "measured": evaluation_as_json(results, measured),
    }


def _keep(run_dir: Path, name: str, found: Mapping[str, Any]) -> Path:
    """Write the object into the run directory. Raises `UsageError` where that cannot be written."""
    folder = run_dir / MEASURED
    file = folder / f"{name}-{strftime('%Y%m%d-%H%M%S', gmtime())}.json"
    try:
        folder.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}", "measure on a writable copy") from error
    return file


def _questions(results: RunResults) -> str:
    kind = "what confirms the search" if results.run_state.confirms else "the search's questions"
    names = ", ".join(benchmark.name for benchmark in results.spec.benchmarks)
    return f"measured on {kind} ({names})"
