"""`apbmm confirm`: starts the master that confirms a search, and its workers where asked."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from apbmm.confirm.flags import ConfirmOptions
from apbmm.confirm.view import as_json, print_confirmation
from apbmm.demo.command import DEMO_WORKERS, demo_workers
from apbmm.results.confirmation import read_confirmation
from apbmm.results.json_form import print_json
from apbmm.results.run_directories import find_run
from apbmm.results.run_results import RunResults, read_results
from apbmm.run.command import local_workers, next_commands
from apbmm.run.devices import devices_of
from apbmm.run.flags import RunFlags
from apbmm.run.processes import LocalWorker, run_processes, run_screen
from apbmm_common.datasets.demo_pair import RUN_FILE
from apbmm_common.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from apbmm_common.process.logs import set_up_logging
from apbmm_common.protocol.curve_keys import NO_KEYS, master_keys
from apbmm_common.run_file import RunSpec
from apbmm_master.confirm import confirm_search, what_to_confirm
from apbmm_master.journal.run_start.confirmation import confirm_folder
from apbmm_master.run_checks import load_run
from apbmm_master.serve import open_authenticator
from apbmm_master.status.console import worker_command

DEFAULT_BIND = "tcp://127.0.0.1:5711"


def run_confirm(run: str | None, options: ConfirmOptions) -> int:
    """Confirm a search, and print search and confirmed figures; returns the exit code.

    Without ``run`` it is the run that changed last. Raises `UsageError` for a run that does not
    exist or has no front, and where the run file keeps no questions to confirm on.
    """
    set_up_logging("WARNING")
    search = read_results(find_run(run))
    spec = _edited(search, options)
    what_to_confirm(search.run_dir, search.run_state, spec, options.evaluations)  # or refuses
    with _messages_on_stderr() if options.json else contextlib.nullcontext():
        code = _measure(search, spec, options)
    if code in (EXIT_DONE, EXIT_INTERRUPTED) and not options.quiet:
        _show(search, options)
    return code


def _edited(search: RunResults, options: ConfirmOptions) -> RunSpec | None:
    """The run file of the search as it is now, where one is named."""
    if options.run_file is None:
        return None
    spec = load_run(options.run_file)
    if spec.name != search.spec.name:
        raise UsageError(
            f"{options.run_file} describes {spec.name}, not {search.spec.name}",
            "--run-file names the run file of the search, with other [confirm] tables",
        )
    return spec


def _measure(search: RunResults, spec: RunSpec | None, options: ConfirmOptions) -> int:
    if options.gpus is not None:
        devices = devices_of(options.gpus, options.workers, rehearsal=search.rehearsal)
        own = RunFlags(bind=options.bind, keys=options.keys, insecure=options.insecure)
        return _serve_with(local_workers(devices, own), search, options, options.keys)
    if options.bind is None and (search.run_dir / RUN_FILE).is_file():
        workers = demo_workers(options.workers or DEMO_WORKERS, rehearsal=search.rehearsal)
        return _serve_with(workers, search, options, NO_KEYS)
    if options.workers is not None:
        raise UsageError("--workers is for workers on the CPU", "--gpus cpu starts them")
    return _serve(search, spec, options)


@contextlib.contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Keep standard output, of child processes too, for the JSON object alone."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _serve(search: RunResults, spec: RunSpec | None, options: ConfirmOptions) -> int:
    bind = options.bind or DEFAULT_BIND
    authenticator = open_authenticator(
        bind, options.status_bind, master_keys(options.keys), insecure=options.insecure
    )
    if not options.quiet:
        joining = worker_command(bind, rehearsal=search.rehearsal)
        print(f"without --gpus, workers join by: {joining}", file=sys.stderr)  # noqa: T201
    return confirm_search(
        search.run_dir,
        bind,
        options.status_bind,
        authenticator,
        spec=spec,
        wanted=options.evaluations,
        summary=False,
    )


def _serve_with(
    workers: Sequence[LocalWorker], search: RunResults, options: ConfirmOptions, keys: str | None
) -> int:
    """Confirm by workers of this host, as `apbmm run` and the demo search."""

    def master(address: str) -> list[str]:
        given = replace(options, bind=address, keys=keys, gpus=None, workers=None)
        return [sys.executable, "-P", "-m", "apbmm.cli", *_arguments(search, given), "--quiet"]

    return run_processes(
        search.run_dir,
        workers,
        master,
        bind=options.bind,
        journal_folder=confirm_folder(search.run_dir),
        screen=None if options.json else run_screen(search.run_dir, workers),
    )


def _arguments(search: RunResults, options: ConfirmOptions) -> list[str]:
    """The arguments of `apbmm` that confirm ``search``, without those on what is printed."""
    given = {
        "--run-file": options.run_file,
        "--bind": options.bind,
        "--status-bind": options.status_bind,
        "--keys": options.keys,
        "--gpus": options.gpus,
        "--workers": options.workers,
    }
    chosen = [part for name in options.evaluations for part in ("--eval", name)]
    chosen += [part for flag, value in given.items() if value for part in (flag, str(value))]
    insecure = ["--insecure"] if options.insecure else []
    return ["confirm", str(search.run_dir), *chosen, *insecure]


def _show(search: RunResults, options: ConfirmOptions) -> None:
    found = read_confirmation(search)
    if found is None:
        return
    if options.json:
        print_json(as_json(search, found))
    else:
        print_confirmation(search, found, shlex.join(("apbmm", *_arguments(search, options))))
        if not found.missing:
            print("\n".join(next_commands(search.run_dir, search.spec)))  # noqa: T201
