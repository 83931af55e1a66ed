"""An engine on this host, without a master, for `apbmm try`, `measure` and `check --probe`."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from apbmm_common.errors import ApbmmError, UsageError
from apbmm_common.process.signals import StopRequests, handlers_restored
from apbmm_common.protocol.messages import Assign, Evaluated, Failed
from apbmm_common.run_file import RunSpec, reference_vector
from apbmm_worker.daemon.evaluation_job import AnswerStore, EvaluationJob
from apbmm_worker.daemon.options import Claim, Options

T = TypeVar("T")
ShowStage = Callable[[str, str], None]
"""Shows a stage, and how much of it is done."""
POLL_SECONDS = 0.2


@contextmanager
def local_engine(purpose: str, gpu: str, *, allow_remote_code: bool) -> Iterator[Options]:
    """A worker's options with temporary folders, and its claim to the card, for a while.

    An `ApbmmError` that is raised within, except a `UsageError`, names a copy of the engine's log.
    """
    # What the worker's code tells its log is told here as errors and stages.
    logging.getLogger("apbmm_worker").addHandler(logging.NullHandler())
    prefix = f"apbmm-{purpose}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as made:
        folder = Path(made)
        options = Options(
            f"{purpose}-{os.getpid()}",
            gpu,
            master="",
            state=folder,
            scratch=folder / "scratch",
            allow_remote_code=allow_remote_code,
        )
        options.scratch.mkdir()
        claim = Claim(options, once=True)
        try:
            yield options
        except UsageError:
            raise
        except ApbmmError as error:
            raise _with_log(error, folder / "child.log", prefix) from error
        finally:
            claim.release()


def work_in_stages(
    what: str, options: Options, work: Callable[[ShowStage], Coroutine[Any, Any, T]]
) -> T:
    """The result of ``work``, which is given a function that shows its stage on the terminal.

    SIGINT and SIGTERM cancel it, and raise KeyboardInterrupt.
    """
    stops = StopRequests()

    async def run() -> T:
        task = asyncio.current_task()
        assert task is not None
        stops.listen(lambda _: task.cancel())
        try:
            with _stages(what, options.gpu) as show:
                return await work(show)
        finally:
            stops.ignore_more()

    try:
        with handlers_restored():
            return asyncio.run(run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@asynccontextmanager
async def watched_job(options: Options, show: ShowStage) -> AsyncIterator[EvaluationJob]:
    """A job whose stages are shown; at the end its processes are gone."""
    job = EvaluationJob(options)
    watch = asyncio.create_task(_show_stages(job, show))
    try:
        yield job
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await job.abort()


async def evaluated_source(
    job: EvaluationJob,
    spec: RunSpec,
    source: str,
    layers: int,
    *,
    run: str,
    evaluation: str,
    answers: AnswerStore | None = None,
) -> Evaluated:
    """The measurements of a source on the questions of a prepared run; ``answers`` as of `work`.

    The records lie below ``outputs/RUN/EVALUATION`` of the job's state. Raises `ApbmmError`.
    """
    assign = Assign(
        run=run,
        evaluation=evaluation,
        attempt=1,
        lease=evaluation,
        work="reference",
        vector=reference_vector(spec.sources, source, layers),
        config=run,
    )
    body = await job.work(assign, answers)
    if isinstance(body, Failed):
        raise ApbmmError(body.message, body.hint)
    assert isinstance(body, Evaluated)
    return body


async def _show_stages(job: EvaluationJob, show: ShowStage) -> None:
    """Show the stage of the work in hand, whenever it changes."""
    last = ("", "")
    while True:
        event = job.progress.latest
        counted = f" {event.done} of {event.total}" if event.total > 1 else ""
        if event.stage and (shown := (event.stage, counted)) != last:
            show(*shown)
            last = shown
        await asyncio.sleep(POLL_SECONDS)


def _with_log(error: ApbmmError, log: Path, prefix: str) -> ApbmmError:
    """The error, with a copy of the engine's log that outlives the temporary folder."""
    if not log.is_file():
        return error
    number, kept = tempfile.mkstemp(prefix=prefix, suffix=".log")
    os.close(number)
    shutil.copyfile(log, kept)
    hint = error.hint.replace(str(log), kept).replace("the worker's child.log", kept)
    return ApbmmError(
        error.message, hint if kept in hint else f"{hint}; its log is {kept}".lstrip("; ")
    )


@contextmanager
def _stages(what: str, gpu: str) -> Iterator[ShowStage]:
    """Show the stage of the work, on a terminal in one line that is gone at the end.

    Where standard error is no terminal, every stage gets a line of its own.
    """
    from rich.console import Console
    from rich.markup import escape

    where = "the CPU" if gpu == "cpu" else f"GPU {gpu}"
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        last = [""]

        def print_new(stage: str, done: str) -> None:
            del done
            if stage != last[0]:
                last[0] = stage
                console.print(f"{what} on {where}: {stage}", markup=False)

        yield print_new
        return
    with console.status(f"{what} on {where}") as line:
        yield lambda stage, done: line.update(f"{what} on {where}: {escape(stage + done)}")
