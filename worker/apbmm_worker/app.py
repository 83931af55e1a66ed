"""The `apbmm-worker` command. Heavy imports come after its arguments are parsed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from apbmm_common.process.command_line import command_app
from apbmm_common.process.logs import Level, LogFormat
from apbmm_common.process.signals import StopRequests, handlers_restored, sigint_exits_at_once

if TYPE_CHECKING:
    from apbmm_worker.daemon.options import Options

log = logging.getLogger(__name__)

app = command_app(
    "apbmm-worker",
    "One apbmm worker: evaluates merges on one GPU (or several, or the CPU) for a master.",
    from_environment=True,
)


Repeatable = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class WorkerFlags:
    """As given on the command line or in the environment.

    Parameters
    ----------
    gpu
        Card number; several as 0,1 for one tensor-parallel worker; cpu for the CPU build of
        vLLM; rehearsal for invented measurements.
    master
        Address of the master.
    name
        This worker's name, unique in the fleet. Default: host and card, as hostA-gpu0.
    state
        Folder for results that are not delivered yet, and logs.
    scratch
        Folder for merged checkpoints; fast and large. Each worker uses a folder of its name
        there. Default: within the state folder.
    path
        NAME=PATH, repeatable: path on this host of a source, benchmark or prompt file that the run
        file names.
    root
        Folder, repeatable: paths of the run file that no --path replaces must be in one of these.
        Default: any path for a master on this host, none for a master on another host.
    engine_arg
        KEY=VALUE, repeatable: an argument of the engine (vLLM) on this host, which goes before the
        run file's value, as in max_num_seqs=64.
    keys
        Folder with this worker's key (NAME.key_secret) and the master's public one (master.key).
        Default: ~/.config/apbmm/keys if it holds this worker's key; none: no keys.
    insecure
        Without keys, serve a master on another host all the same, though it proves no identity.
    allow_remote_code
        Run Python code where a run file asks for it as well: that of checkpoints (remote_code in
        its table engine), and a run's own adapters (adapters). Only for code that you have read.
    leave_after
        Minutes: end when no master has had a run for this worker for so long, as after the end of
        a run. Default: wait for the next run for ever.
    log_level
        Least severity of the messages on standard error.
    log_format
        text, or json for one JSON object a line, with the ids of run and evaluation.
    """

    gpu: str
    master: str = "tcp://127.0.0.1:5711"
    name: str | None = None
    state: Path | None = None
    scratch: Path | None = None
    path: Repeatable = ()
    root: Repeatable = ()
    engine_arg: Repeatable = ()
    keys: str | None = None
    insecure: bool = False
    allow_remote_code: bool = False
    leave_after: Annotated[float | None, Parameter(validator=validators.Number(gte=0))] = None
    log_level: Level = "INFO"
    log_format: LogFormat = "text"


@app.default
def worker(*, flags: WorkerFlags) -> int:
    """Serve a master until stopped. It waits for a master that starts later or starts again.

    SIGTERM or Ctrl-C ends it after the current evaluation; a second one drops that evaluation.
    """
    with sigint_exits_at_once():
        from apbmm_common.process.logs import set_up_logging
        from apbmm_common.protocol.curve_keys import worker_keys
        from apbmm_worker.daemon import options
        from apbmm_worker.engine_options import parse_engine_arguments

    set_up_logging(flags.log_level, flags.log_format)
    card = options.parse_gpu(flags.gpu)
    worker_name = options.parse_name(flags.name) if flags.name else options.default_name(card)
    folder = options.state_folder(worker_name, flags.state)
    certificates = worker_keys(flags.keys, worker_name)
    options.require_known_master(
        worker_name, flags.master, flags.keys, certificates, insecure=flags.insecure
    )
    settings = options.Options(
        name=worker_name,
        gpu=card,
        master=flags.master,
        state=folder,
        scratch=flags.scratch / worker_name if flags.scratch else folder / "scratch",
        paths=options.parse_paths(flags.path),
        keys=certificates,
        roots=options.parse_roots(flags.root, flags.master),
        engine=parse_engine_arguments(flags.engine_arg),
        allow_remote_code=flags.allow_remote_code,
        leave_after=None if flags.leave_after is None else flags.leave_after * 60,
    )
    return serve(settings)


def serve(settings: Options) -> int:
    """Run the daemon under its signal handlers; returns the exit code."""
    import asyncio
    import signal

    with sigint_exits_at_once():
        from apbmm_worker.daemon.daemon import Daemon
        from apbmm_worker.daemon.master_link import flush
        from apbmm_worker.daemon.options import Claim, claim_folders

    claim = Claim(settings)
    folders = claim_folders(settings)
    log.info(
        "worker %s (%s) waits for a master at %s; its state is in %s",
        settings.name,
        settings.gpu,
        settings.master,
        settings.state,
    )

    async def run() -> int:
        daemon = Daemon(settings)
        stops = StopRequests()
        stops.listen(lambda number: daemon.stop(interrupted=number == signal.SIGINT))
        try:
            return await daemon.run()
        finally:
            stops.ignore_more()

    with handlers_restored():
        try:
            return asyncio.run(run())
        finally:
            flush()
            folders.release()
            claim.release()
