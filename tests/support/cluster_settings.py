"""What the files for clusters may set: the variables of the commands, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_common.protocol.addresses import is_local
from apbmm_master.app import MasterFlags, master
from apbmm_worker.app import app as worker_app
from apbmm_worker.daemon.local_paths import LocalPaths
from apbmm_worker.daemon.options import parse_roots
from rehearsal_runs import run_spec

MASTER = (master, MasterFlags)
"""What has the arguments of the master's command."""


def settings(*commands: Any) -> set[str]:
    """The variables that set the arguments of a command."""
    found = {f"APBMM_{name.upper()}" for each in commands for name in each.__annotations__}
    return found - {"APBMM_RETURN", "APBMM_FLAGS"}


def reads(variables: dict[str, str], path: Path) -> bool:
    """Whether a worker with these settings reads a source that a run file has at ``path``."""
    with pytest.MonkeyPatch.context() as patch:
        for name in {"APBMM_GPU", "APBMM_MASTER", "APBMM_ROOT"} & variables.keys():
            patch.setenv(name, variables[name])
        _, told, _ = worker_app.parse_args([], print_error=False)
    flags = told.arguments["flags"]
    assert not is_local(flags.master, "--master")
    paths = LocalPaths({}, parse_roots(flags.root, flags.master))
    spec = run_spec(evaluation={"kind": "vllm"}, sources={"thinking": str(path)})
    try:
        return paths.of("thinking", spec.sources.folders["thinking"]) == str(path)
    except EvaluationError:
        return False
