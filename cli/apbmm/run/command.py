"""`apbmm run`: a search to its end, by a master and its workers on this host."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from apbmm.check.inspect import inspect
from apbmm.check.view import print_faults
from apbmm.installed import ENGINES, EVALUATION, SEARCH, on_cpu, require_installed
from apbmm.results.confirmation import conclusion, read_confirmation
from apbmm.results.run_directories import find_run
from apbmm.results.run_results import read_results
from apbmm.results.words import print_rehearsal
from apbmm.run.devices import ALL, CPU, ON_THE_CPU, devices_of, uses_card
from apbmm.run.flags import RunFlags
from apbmm.run.processes import (
    LocalWorker,
    dashboard_in_words,
    dashboard_port,
    master_command,
    run_processes,
    run_screen,
)
from apbmm_common.checkpoint.headers import Checkpoint, layer_count
from apbmm_common.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, UsageError
from apbmm_common.process.known_runs import JOURNAL
from apbmm_common.process.logs import logs_json, set_up_logging
from apbmm_common.process.whole_files import write_whole
from apbmm_common.protocol.addresses import is_local, reached_at, reached_from_elsewhere
from apbmm_common.protocol.curve_keys import NO_KEYS, SECRET, flag_for, master_keys
from apbmm_common.run_file import EvaluationSection, RunSpec, run_as_toml
from apbmm_master.beginning import elsewhere
from apbmm_master.journal.assessment.scores import scores_of
from apbmm_master.journal.costs.budget import reached
from apbmm_master.journal.events import AnyEvent
from apbmm_master.journal.run_start.confirmation import can_confirm, confirm_folder
from apbmm_master.journal.run_start.resume import begin_or_resume
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.run_directory import unusable
from apbmm_master.journal.storage.store import read_journal
from apbmm_master.serve import terminal_of
from apbmm_master.status.console import worker_of
from apbmm_worker.daemon.options import default_name

INSTALL_FOR_CARDS = (
    "pip install '.[master,worker]' in a new environment, in the folder of the sources"
)
INSTALL = "pip install '.[master,worker]', or '.[master,worker-cpu]', in the folder of its sources"

REHEARSAL_SECONDS = 0.5
REHEARSED = "-rehearsal"
"""What the name of a rehearsal of a run file ends with."""
REHEARSED_FILE = "run-file.rehearsal.toml"
MOST_OF_NAME = 64


def run_search(run_file: Path, flags: RunFlags) -> int:
    """Begin or resume the search of a run file; returns the exit code.

    With ``flags.rehearsal`` it is a rehearsal of that run, with a run directory of its own. Raises
    `UsageError` for flags or a host with which it cannot be run, before anything starts.
    """
    set_up_logging("WARNING", flags.log_format)
    found = inspect(run_file)
    if found.faults:
        print_faults(found)
        return EXIT_USAGE
    assert found.spec is not None
    spec = rehearsal_of(found.spec, found.checkpoints) if flags.rehearsal else found.spec
    rehearsal = spec.evaluation.kind == "rehearsal"
    gpus = flags.gpus or (CPU if rehearsal or on_cpu() else ALL)
    devices = devices_of(gpus, flags.workers, rehearsal=rehearsal)
    if not rehearsal:
        needed = (*SEARCH, *EVALUATION, *ENGINES.get(spec.engine.kind, ()))
        require_installed("apbmm run searches and evaluates on this host", needed, INSTALL)
    workers = local_workers(devices, flags)
    run_dir = flags.run_dir or Path("runs") / spec.name
    if flags.run_dir is None and (note := elsewhere(run_dir, spec.name)):
        print(note, file=sys.stderr)  # noqa: T201
    console = Console(highlight=False, soft_wrap=True, quiet=logs_json())
    over = _is_over(run_dir, spec)

    started = () if over else workers
    dashboard = dashboard_port() if flags.dashboard and started else None
    joining = joining_in_words(flags.bind, rehearsal=rehearsal)
    has_screen = bool(started) and not logs_json()
    screen = run_screen(run_dir, started, dashboard, joining) if has_screen else None
    said = [] if dashboard is None else [dashboard_in_words(dashboard)]
    if screen is None:
        said += [joining] if joining else []
        said += [] if rehearsal else [_start_in_words(devices, run_dir)]

    def announce() -> None:
        console.print(*said, sep="\n", end="\n" if said else "", markup=False)

    options = _master_options(flags, dashboard)
    served = _write_rehearsed(run_dir, spec) if flags.rehearsal else run_file
    code = run_processes(
        run_dir,
        started,
        lambda address: master_command(served, run_dir, address, options),
        bind=flags.bind,
        announce=announce,
        screen=screen,
    )
    conclude(run_dir, spec, code, goes_on="the same command")
    ended = code in (EXIT_DONE, EXIT_INTERRUPTED)
    following = next_commands(run_dir, spec, gpus) if ended else []
    console.print(*following, sep="\n", end="\n" if following else "", markup=False)
    if flags.dashboard and code != EXIT_USAGE:
        console.print(shows_again(run_dir), markup=False)
    if over and code == EXIT_DONE:
        console.print(_had_finished(run_dir, run_file), markup=False)
    return code


def next_commands(run_dir: Path, spec: RunSpec, gpus: str | None = None) -> list[str]:
    """What can be done with a run, ended or not; nothing while its front is empty.

    ``gpus`` would confirm it; without them it is confirmed.
    """
    if not _has_front(run_dir):
        return []
    folder, rehearsal = str(run_dir), spec.evaluation.kind == "rehearsal"
    commands: list[tuple[tuple[str, ...], str]] = [
        (("pick", folder), "the merge to serve, against the sources"),
        (("report", folder), "one HTML file: what was found, and what to doubt"),
    ]
    if gpus is not None and can_confirm(spec) and not (spec.confirm.at_end or rehearsal):
        confirm = ("confirm", folder, "--gpus", gpus)
        commands.append((confirm, "the front on questions that it was not chosen by"))
    if not rehearsal:
        export = ("export", folder, "--out", f"{spec.name}-merge")
        commands.append((export, "the picked merge as a folder to serve"))
    shown = [(shlex.join(("apbmm", *command)), what) for command, what in commands]
    return ["next:", *(line for command, what in shown for line in (f"  # {what}", f"  {command}"))]


def _has_front(run_dir: Path) -> bool:
    """Whether a run has found a merge to pick, confirm and export."""
    if not (run_dir / JOURNAL).is_file():
        return False
    return bool(scores_of(RunState().replay(read_journal(run_dir))).front)


def rehearsal_of(spec: RunSpec, checkpoints: Mapping[str, Checkpoint]) -> RunSpec:
    """A run with invented measurements in place of ``spec``'s, and invented models of its layers.

    It has a name, and so a run directory, of its own. ``checkpoints`` are the sources'. A run file
    that is a rehearsal keeps what it says of it.
    """
    evaluation = spec.evaluation
    if evaluation.kind != "rehearsal":
        evaluation = EvaluationSection(
            kind="rehearsal",
            layers=layer_count(checkpoints[spec.sources.names[-1]]),
            rehearsal_seconds=REHEARSAL_SECONDS,
        )
    name = spec.name[: MOST_OF_NAME - len(REHEARSED)] + REHEARSED
    return spec.model_copy(update={"name": name, "evaluation": evaluation})


def _write_rehearsed(run_dir: Path, spec: RunSpec) -> Path:
    """Write the run file of a rehearsal into its run directory; returns its path."""
    file = run_dir / REHEARSED_FILE
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_whole(file, run_as_toml(spec).encode())
    except OSError as error:
        raise UsageError(unusable(run_dir, error), "set --run-dir") from error
    return file


def _is_over(run_dir: Path, spec: RunSpec) -> bool:
    """Whether ``spec`` leaves nothing to measure in a run, nor in a confirmation at its end.

    Raises `RunChangedError` as its master would.
    """
    if not (run_dir / JOURNAL).is_file():
        return False
    run_state = RunState().replay(read_journal(run_dir))
    changes: list[AnyEvent] = []
    begin_or_resume(run_state, spec, changes.append)
    if changes or not run_state.finished:
        return False
    if run_state.failed or not spec.confirm.at_end:
        return True
    confirmed = confirm_folder(run_dir)
    if not (confirmed / JOURNAL).is_file():
        return False
    return bool(RunState().replay(read_journal(confirmed)).finished)


def conclude(run_dir: Path, spec: RunSpec, code: int, *, goes_on: str) -> None:
    """Print the front, what was spent, how the run ended, and what was confirmed.

    ``goes_on`` is the command that goes on with a run that has not ended. Prints nothing where the
    master ended by an error (its exit code ``code``), which it has printed.
    """
    if code == EXIT_USAGE:
        return
    console = Console(highlight=False, soft_wrap=True, quiet=logs_json())
    if not (run_dir / JOURNAL).is_file():
        console.print(f"interrupted before the run began: {goes_on} begins it", markup=False)
        return
    run_state = RunState().replay(read_journal(run_dir))
    if code == EXIT_FAILED and not run_state.finished:
        return
    print_rehearsal(console, rehearsal=spec.evaluation.kind == "rehearsal")
    terminal_of(run_state, run_dir).conclude(run_state, goes_on=goes_on)
    if spec.confirm.at_end and run_state.finished:
        search = read_results(run_dir)
        confirmation = read_confirmation(search)
        for line in conclusion(search, confirmation, goes_on) if confirmation else ():
            console.print(line, markup=False)


def _had_finished(run_dir: Path, run_file: Path) -> str:
    """That nothing had to be started for a run, and which key goes on with it when raised."""
    run_state = RunState().replay(read_journal(run_dir))
    if (limit := reached(run_state)) is not None:
        key = f"budget.{limit.name}"
    else:
        key = "budget.patience" if run_state.by_patience else ""
    more = f": raise {key} in {run_file}, and the same command goes on" if key else ""
    return f"this run had finished before, and no worker was started{more}"


def _start_in_words(devices: Sequence[str], run_dir: Path) -> str:
    """What starts, and where to watch it."""
    each = ", each" if len(devices) > 1 else ""
    return (
        f"{_in_words(devices)}{each} with an engine of its own that takes a while to start; "
        f"watch with apbmm status {run_dir} --watch"
    )


def joining_in_words(bind: str | None, *, rehearsal: bool) -> str:
    """How workers of other hosts join; "" for a master that only this host reaches."""
    if bind is None or is_local(bind, "--bind"):
        return ""
    joining = worker_of(reached_from_elsewhere(bind) or bind, rehearsal=rehearsal)
    return f"workers of other hosts join by: {joining}"


def _in_words(devices: Sequence[str]) -> str:
    """How many workers there are, and on what."""
    count = f"{len(devices)} worker{'s' if len(devices) > 1 else ''}"
    if devices[0] == CPU:
        return f"{count} on the CPU"
    return f"{count} on GPU {', '.join(device.replace(',', '+') for device in devices)}"


def local_workers(devices: Sequence[str], flags: RunFlags) -> tuple[LocalWorker, ...]:
    """The workers, named as `apbmm-worker` names itself, and numbered where they use no card.

    Raises `UsageError` where a master with keys would not let one in, and for cards that the
    installed PyTorch cannot use.
    """
    if any(map(uses_card, devices)) and on_cpu():
        require_installed("a worker on a card evaluates on this host", EVALUATION, INSTALL)
        raise UsageError(
            f"--gpus {','.join(device.replace(',', '+') for device in devices)}: the CPU build of "
            "PyTorch is installed, which uses no card",
            f"{ON_THE_CPU}; for cards {INSTALL_FOR_CARDS}",
        )
    names = [
        default_name(device) + ("" if uses_card(device) else f"-{number}")
        for number, device in enumerate(devices, 1)
    ]
    options = [*_worker_keys(names, flags), *(["--insecure"] if flags.insecure else [])]
    if flags.bind is not None and not is_local(reached_at(flags.bind), "--bind"):
        options += ["--root", "/"]  # the master is on this host all the same
    if flags.scratch is not None:
        options += ["--scratch", str(flags.scratch)]
    if flags.allow_remote_code:
        options.append("--allow-remote-code")
    return tuple(
        LocalWorker(name, device, tuple(options))
        for name, device in zip(names, devices, strict=True)
    )


def _worker_keys(names: Sequence[str], flags: RunFlags) -> list[str]:
    keys = master_keys(flags.keys)
    if keys is None:
        return ["--keys", NO_KEYS]
    missing = [name for name in names if not (keys.folder / (name + SECRET)).is_file()]
    if missing:
        raise UsageError(
            f"{keys.folder} has a master's key, but none for {', '.join(missing)}",
            f"apbmm keys new-worker NAME{flag_for(keys)} makes one for each; --keys none goes "
            "without",
        )
    return ["--keys", str(keys.folder)]


def shows_again(run_dir: Path) -> str:
    """How a run is seen in a browser when its master has ended."""
    return f"{shlex.join(('apbmm', 'dashboard', str(run_dir)))} shows it in a browser again"


def _master_options(flags: RunFlags, dashboard: int | None) -> list[str]:
    """The master's flags that are passed on, with the folder of a run that is named."""
    earlier = flags.learn_from and find_run(
        flags.learn_from, "--learn-from takes the run directory or name of an earlier run"
    )
    given = {
        "--status-bind": flags.status_bind,
        "--metrics": flags.metrics,
        "--dashboard": dashboard,
        "--keys": flags.keys,
        "--learn-from": earlier,
    }
    options = [part for flag, value in given.items() if value for part in (flag, str(value))]
    return [*options, "--insecure"] if flags.insecure else options
