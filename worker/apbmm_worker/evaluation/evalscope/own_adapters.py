"""A run's own adapters: a Python file that registers benchmarks with EvalScope.

Nothing of the file runs before worker and run file both allow it (`daemon.evaluation_job`).
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from apbmm_common.errors import SourceError, unreadable
from apbmm_worker.evaluation.evalscope.logging_guard import preserved_logging
from apbmm_worker.evaluation.scoring_protocol import OwnAdapters

with preserved_logging():
    import evalscope.benchmarks  # noqa: F401 - with which EvalScope's registry knows them
    from evalscope.api.registry import BENCHMARK_REGISTRY

MODULE = "apbmm_run_adapters"


def register_own_adapters(adapters: OwnAdapters) -> tuple[str, ...]:
    """Run a file of adapters; returns the names that it registers.

    Raises `SourceError`, with file and line, for a file that fails, registers nothing, or is no
    longer the one that the run was prepared with.
    """
    file = Path(adapters.file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise unreadable(file, error) from error
    if hashlib.sha256(content).hexdigest() != adapters.digest:
        raise SourceError(
            f"adapters: {file} is not the file that the run was prepared with",
            "it was changed while the run is going on; start the worker again",
        )
    module = ModuleType(MODULE)
    module.__file__ = str(file)
    sys.modules[MODULE] = module  # EvalScope and pydantic look classes up by their module
    try:
        with preserved_logging():
            exec(compile(content, str(file), "exec"), module.__dict__)  # noqa: S102 - allowed
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: a file of adapters must not end the worker
        raise SourceError(
            f"adapters: {file}{_line(file, error)}: {type(error).__name__}: {error}",
            "the file must run by itself: python FILE in apbmm's environment shows the traceback",
        ) from error
    # The registry's own methods would import every benchmark that it has.
    own = {
        name: meta
        for name, meta in dict.items(BENCHMARK_REGISTRY)
        if meta.data_adapter.__module__ == MODULE
    }
    for name, meta in own.items():  # without them EvalScope's report fails, after all answers
        meta.pretty_name = meta.pretty_name or name
        meta.description = meta.description or name
    if not own:
        raise SourceError(
            f"adapters: {file} registers no benchmark",
            "@register_benchmark(...) above a class does",
        )
    return tuple(own)


def _line(file: Path, error: BaseException) -> str:
    """The line of the file that an error comes from; empty where it is not known."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""
