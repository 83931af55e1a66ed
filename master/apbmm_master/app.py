"""The options of the `apbmm-master` command. Slow imports come after the options are parsed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from apbmm_common.process.command_line import command_app
from apbmm_common.process.logs import Level, LogFormat
from apbmm_common.process.signals import sigint_exits_at_once

app = command_app(
    "apbmm-master",
    "Run, or go on with, the search that a run file describes.",
    from_environment=True,
)


@Parameter(name="*")
@dataclass(frozen=True)
class MasterFlags:
    """As given on the command line or in the environment.

    Parameters
    ----------
    run_dir
        Folder that holds everything about the run: its own, a new or an empty one. Default:
        runs/NAME.
    bind
        Address that workers connect to.
    status_bind
        TCP address that answers status requests, beside the socket in the run directory.
    metrics
        Port of the loopback interface that serves metrics to Prometheus at /metrics, or HOST:PORT.
        Whoever reaches it may read them. Default: none are served.
    dashboard
        Port of the loopback interface that serves apbmm dashboard while the master runs.
    keys
        Folder of keys (apbmm keys new-master): only workers with an allowed key may join. Default:
        ~/.config/apbmm/keys if that holds a master's key; none goes without.
    insecure
        Without keys, allow addresses that other hosts can reach. The master accepts them all.
    learn_from
        Run directory of an earlier run of the same sources, benchmarks and settings: a new run
        takes its references and its merges over as observations, beside its own budget.
    summary
        Print the front, its hypervolume and the load rate at the end.
    log_level
        Least severe level that is logged to standard error.
    log_format
        text, or json for one JSON object a line, with the ids of run and evaluation: of the log,
        and of every event on standard output.
    """

    run_dir: Path | None = None
    bind: str = "tcp://127.0.0.1:5711"
    status_bind: str | None = None
    metrics: str | None = None
    dashboard: int | None = None
    keys: str | None = None
    insecure: bool = False
    learn_from: Path | None = None
    summary: bool = True
    log_level: Level = "WARNING"
    log_format: LogFormat = "text"


NONE_GIVEN = MasterFlags()


@app.default
def master(run_file: Path, /, *, flags: MasterFlags = NONE_GIVEN) -> int:
    """Serve workers until the run's budget is spent.

    The same command on the same run directory goes on where it stopped, also after a crash.
    With confirm.at_end in the run file, the front is then confirmed as by apbmm confirm. SIGTERM
    or Ctrl-C lets the evaluations in hand finish and exits; a second one exits at once,
    and the workers keep what they have.

    Parameters
    ----------
    run_file
        RUN.toml (APBMM_RUN_FILE).
    """
    with sigint_exits_at_once():
        from apbmm_common.errors import EXIT_DONE
        from apbmm_common.process.logs import set_up_logging
        from apbmm_common.protocol.curve_keys import master_keys
        from apbmm_master.beginning import Beginning, elsewhere
        from apbmm_master.confirm import confirm_search, ended_well
        from apbmm_master.followers.launch import Beside
        from apbmm_master.journal.run_start.learning import earlier_run
        from apbmm_master.journal.storage.run_directory import require_for_runs
        from apbmm_master.run_checks import load_run
        from apbmm_master.serve import open_authenticator, serve

    set_up_logging(flags.log_level, flags.log_format)
    spec = load_run(run_file)
    known = master_keys(flags.keys)
    addresses = (flags.bind, flags.status_bind)
    beside = Beside(flags.metrics, flags.dashboard)
    authenticator = open_authenticator(*addresses, known, insecure=flags.insecure)
    folder = flags.run_dir or Path("runs") / spec.name
    require_for_runs(folder, run_file)
    earlier = earlier_run(flags.learn_from, spec) if flags.learn_from is not None else None
    beginning = Beginning(folder, run_file.read_bytes(), keys_named=flags.keys is not None)
    if flags.run_dir is None and (note := elsewhere(folder, spec.name)):
        print(note, file=sys.stderr)  # noqa: T201
    code = serve(
        spec,
        folder,
        *addresses,
        authenticator,
        earlier=earlier,
        accepted=beginning.accept,
        beside=beside,
        summary=flags.summary,
    )
    if code != EXIT_DONE or not spec.confirm.at_end or not ended_well(folder):
        return code
    authenticator = open_authenticator(*addresses, known, insecure=flags.insecure)
    return confirm_search(
        folder,
        *addresses,
        authenticator,
        spec=spec,
        beside=beside,
        summary=flags.summary,
    )
