"""Ask the process of `apbmm.questions.main` how a run's questions look to the model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from apbmm.questions.messages import Rendered, RenderedBenchmark, RenderRequest
from apbmm_common.errors import ApbmmError, UsageError
from apbmm_common.run_file import RunSpec


def require_evalscope() -> None:
    """Raise `UsageError` unless EvalScope is installed."""
    if find_spec("evalscope") is None:
        raise UsageError(
            "EvalScope, which reads the benchmarks, is not installed here",
            "pip install '.[worker]', or '.[worker-cpu]', in the folder of apbmm's sources adds it",
        )


async def render_questions(
    spec: RunSpec, scratch: Path, most: int, *, allowed_code: bool = False, targets: bool = False
) -> dict[str, RenderedBenchmark]:
    """The benchmarks of a run by name, with the prompts of the first ``most`` questions of each.

    ``allowed_code``: whether Python code that the run asks for may be run: its own adapters, a
    tokenizer of its source's own. With ``targets`` every question's right answer is scored as if
    the model had given it.

    Raises `UsageError` for a benchmark or a template that cannot be used, and `ApbmmError` if the
    process fails in another way. Cancelled, it leaves no process behind.
    """
    request = RenderRequest(
        spec=spec.model_dump(mode="json"),
        scratch=str(scratch),
        most=most,
        allowed_code=allowed_code,
        targets=targets,
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "apbmm.questions.main", str(os.getpid())),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, told = await process.communicate(request.model_dump_json().encode())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    try:
        rendered = Rendered.model_validate_json(out)
    except ValidationError as error:
        lines = told.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise ApbmmError(
            f"the questions could not be read: {lines[-1]}",
            f"the process that reads them ended with exit status {process.returncode}",
        ) from error
    if rendered.error:
        raise UsageError(rendered.error, rendered.hint)
    return rendered.benchmarks
