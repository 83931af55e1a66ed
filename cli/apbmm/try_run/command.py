"""`apbmm try`: a few questions of each benchmark, with prompt, answer, extraction and score."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from apbmm.check.inspect import inspect
from apbmm.check.view import print_faults
from apbmm_common.errors import EXIT_DONE, EXIT_USAGE, ApbmmError, UsageError
from apbmm_common.process.signals import StopRequests, handlers_restored
from apbmm_common.run_file import RunSpec

if TYPE_CHECKING:
    from apbmm.try_run.evaluation import Trial
    from apbmm_worker.daemon.options import Options

PACKAGES = ("torch", "vllm", "evalscope")


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
    if spec.evaluation.kind == "rehearsal":
        raise UsageError(
            f"{request.run_file} is a rehearsal, which asks no model anything",
            'take kind = "rehearsal" out of its [evaluation]',
        )
    require_packages()
    with tempfile.TemporaryDirectory(prefix="apbmm-try-", ignore_cleanup_errors=True) as scratch:
        return _try(request, spec, gpu, Path(scratch))


def _try(request: TryRequest, spec: RunSpec, gpu: str, folder: Path) -> int:
    from apbmm.try_run.evaluation import with_few_questions
    from apbmm.try_run.records import tried_questions
    from apbmm.try_run.view import TriedBenchmark, as_json, report
    from apbmm_worker.daemon.options import Claim, Options

    # What the worker's code tells its log is told here as errors and stages.
    logging.getLogger("apbmm_worker").addHandler(logging.NullHandler())
    source = request.source or spec.generation.template_from
    name = f"try-{os.getpid()}"
    options = Options(
        name,
        gpu,
        master="",
        state=folder,
        scratch=folder / "scratch",
        allow_remote_code=request.allow_remote_code,
    )
    options.scratch.mkdir()
    few = with_few_questions(spec, request.questions)
    claim = Claim(options)
    try:
        trial = _trial(few, source, options)
    except UsageError:
        raise
    except ApbmmError as error:
        raise _with_log(error, folder / "child.log") from error
    finally:
        claim.release()
    tried = [
        TriedBenchmark(
            benchmark.name,
            benchmark.adapter,
            tried_questions(
                trial.outputs / benchmark.name,
                benchmark.adapter,
                trial.questions[benchmark.name].first,
            ),
            trial.evaluated.benchmarks[benchmark.name],
        )
        for benchmark in few.benchmarks
    ]
    if request.as_json:
        json.dump(as_json(spec.name, source, tried), sys.stdout)
        sys.stdout.write("\n")
    else:
        print("\n".join(report(source, tried)))  # noqa: T201
    return EXIT_DONE


def _trial(spec: RunSpec, source: str, options: Options) -> Trial:
    """Have a source answer the questions of a run. SIGINT and SIGTERM cancel it."""
    from apbmm.try_run.evaluation import evaluate_source

    stops = StopRequests()

    async def run() -> Trial:
        task = asyncio.current_task()
        assert task is not None
        stops.listen(lambda _: task.cancel())
        try:
            with _stages(source, options.gpu) as show:
                return await evaluate_source(spec, source, options, show)
        finally:
            stops.ignore_more()

    try:
        with handlers_restored():
            return asyncio.run(run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _with_log(error: ApbmmError, log: Path) -> ApbmmError:
    """The error, with a copy of the engine's log that outlives the temporary folder."""
    if not log.is_file():
        return error
    number, kept = tempfile.mkstemp(prefix="apbmm-try-", suffix=".log")
    os.close(number)
    shutil.copyfile(log, kept)
    hint = error.hint.replace(str(log), kept).replace("the worker's child.log", kept)
    return ApbmmError(
        error.message, hint if kept in hint else f"{hint}; its log is {kept}".lstrip("; ")
    )


@contextmanager
def _stages(source: str, gpu: str) -> Iterator[Callable[[str], None]]:
    """Show the stage of the work on a terminal, in one line that is gone at the end."""
    from rich.console import Console
    from rich.markup import escape

    where = "the CPU" if gpu == "cpu" else f"GPU {gpu}"
    with Console(stderr=True).status(f"{source} on {where}") as line:
        yield lambda stage: line.update(f"{source} on {where}: {escape(stage)}")


def default_gpu() -> str:
    """Card 0, or the CPU where a CPU build of PyTorch is installed."""
    try:
        return "cpu" if version("torch").endswith("+cpu") else "0"
    except PackageNotFoundError:
        return "cpu"


def require_packages() -> None:
    """Raise `UsageError` unless what a worker needs is installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"apbmm try runs a model, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed",
            "pip install '.[worker]', or '.[worker-cpu]', in the folder of apbmm's sources",
        )
