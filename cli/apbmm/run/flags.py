"""The flags of `apbmm run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from apbmm_common.process.logs import LogFormat

Switch = Annotated[bool, Parameter(negative=())]


@Parameter(name="*")
@dataclass(frozen=True)
class RunFlags:
    """As given on the command line; the master's and the workers' own flags are described there.

    Parameters
    ----------
    gpus
        Cards, a worker each: 0,1,2,3 or all; 0+1,2+3 gives each worker two, for a tensor-parallel
        engine; cpu for the CPU build of vLLM. Default: all, or cpu where a CPU build of PyTorch is
        installed.
    workers
        Workers on the CPU, at most one for each processor: each has an engine of its own that
        computes on one, and keeps a whole model in memory. Default: 1.
    run_dir
        Folder that holds everything about the run. Default: runs/NAME.
    bind
        Address that the workers connect to, so that workers of other hosts can join. Default: a
        free port that only this host reaches.
    status_bind
        TCP address that answers status requests, beside the socket in the run directory.
    metrics
        Port of this host that serves metrics to Prometheus, or HOST:PORT.
    dashboard
        Show the run in a browser while it goes on (apbmm dashboard); prints the address.
    keys
        Folder of keys. Default: ~/.config/apbmm/keys if that holds a master's key; none goes
        without.
    insecure
        Without keys, allow addresses that other hosts can reach.
    learn_from
        Run directory or name of an earlier run that a new run learns from.
    rehearsal
        Invent the measurements, of models with the layers of the run file's sources, to try the
        machinery: nothing is evaluated, and the run directory is runs/NAME-rehearsal.
    scratch
        Folder for merged checkpoints of the workers. Default: within the run directory.
    log_format
        text, or json for one JSON object a line, with the ids of run and evaluation: of every event
        in place of the live view, and of the logs of master and workers.
    allow_remote_code
        Let the workers run Python code that comes with checkpoints or is the run's own adapters,
        where the run file asks for it as well.
    """

    gpus: Annotated[str | None, Parameter(name=("--gpus", "--gpu"))] = None
    workers: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None
    run_dir: Path | None = None
    bind: str | None = None
    status_bind: str | None = None
    metrics: str | None = None
    dashboard: Switch = False
    keys: Annotated[str | None, Parameter(env_var="APBMM_KEYS")] = None
    insecure: Switch = False
    learn_from: str | None = None
    rehearsal: Switch = False
    scratch: Path | None = None
    log_format: Annotated[LogFormat, Parameter(env_var="APBMM_LOG_FORMAT")] = "text"
    allow_remote_code: Switch = False


ALL_DEFAULTS = RunFlags()
