"""One master and its workers on this host, which never outlive the command that started them.

Every child leads its own process group, so Ctrl-C reaches only this process, which then stops the
children in order. If this process dies, the kernel kills them. Both are safe at any moment, because
the master's records are on disk.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO

from rich.console import Console

from apbmm.dashboard.command import LOOPBACK, PORT
from apbmm.results.run_directories import local_address
from apbmm.run.devices import uses_card
from apbmm.status.live.screen import LiveScreen, has_screen
from apbmm.status.query import from_journal
from apbmm_common.errors import ApbmmError
from apbmm_common.process.known_runs import JOURNAL
from apbmm_common.process.logs import logs_json
from apbmm_common.process.parent_death import die_with
from apbmm_common.process.signals import (
    SAME_REQUEST_SECONDS,
    STOPS,
    StopRequests,
    handlers_restored,
)
from apbmm_common.protocol.addresses import reached_at
from apbmm_common.protocol.status_requests import NoMasterError, RequestFailedError, Snapshot, ask
from apbmm_master.journal.run_start.confirmation import confirm_folder

POLL_SECONDS = 0.2
HEALTH_SECONDS = 5.0
LEAVE_SECONDS = 20.0
DROP_SECONDS = 1.5 * SAME_REQUEST_SECONDS
"""How long a process may take to end (or, when dropped, to begin ending) before the next signal."""
INHERITED = ("APBMM_LOG_FORMAT", "APBMM_LOCK_DIR")
"""Settings in the environment that master and workers inherit. They get flags, and no others."""
TROUBLE = re.compile(r"\b(WARNING|ERROR|CRITICAL|FATAL)\b|^error: |^[\w.]+(Error|Exception)\b")
"""A line of a log that tells of trouble: by its level, as a command's error, or as a traceback."""
EMPTY: Mapping[str, str] = MappingProxyType({})


class WorkersLostError(ApbmmError):
    """No worker can do the run's work any more."""


class MasterLostError(ApbmmError):
    """The master was killed."""


@dataclass(frozen=True)
class LocalWorker:
    """A worker of this host: its name, its device (``apbmm-worker --gpu``), and more options."""

    name: str
    gpu: str
    options: tuple[str, ...] = ("--keys", "none")


def master_command(
    run_file: Path, run_dir: Path, address: str, options: Sequence[str] = ("--keys", "none")
) -> list[str]:
    """The command line of a master that prints no summary at its end."""
    own = ["--run-dir", str(run_dir), "--bind", address, "--no-summary", *options]
    return [sys.executable, "-P", "-m", "apbmm_master.cli", str(run_file), *own]


def worker_command(run_dir: Path, address: str, worker: LocalWorker) -> list[str]:
    """The command line of one worker."""
    own = ["--gpu", worker.gpu, "--master", address, "--name", worker.name]
    state = ["--state", str(worker_folder(run_dir, worker))]
    return [sys.executable, "-P", "-m", "apbmm_worker.cli", *own, *state, *worker.options]


def run_processes(
    run_dir: Path,
    workers: Sequence[LocalWorker],
    begin: Callable[[str], list[str]],
    *,
    bind: str | None = None,
    journal_folder: Path | None = None,
    announce: Callable[[], object] = lambda: None,
    screen: LiveScreen | None = None,
) -> int:
    """Run a master to its end, with ``workers`` from when it listens; returns the exit code.

    ``begin`` makes the master's command line from the address that it listens on: ``bind``, by
    default a free port of this host. ``journal_folder`` is where that master keeps its journal, by
    default ``run_dir``, which has the workers' folders. ``announce`` is called when the workers
    start. With ``screen`` the master prints nothing there. Raises `WorkersLostError` and
    `MasterLostError`.
    """
    listens = bind or f"tcp://127.0.0.1:{free_port()}"
    address = reached_at(listens)
    folder = journal_folder or run_dir
    with ExitStack() as stack:
        stops = stack.enter_context(_stop_requests())
        fleet: dict[LocalWorker, subprocess.Popen[bytes]] = {}
        if screen is not None:
            stack.enter_context(screen)
        stack.callback(lambda: dismiss(list(fleet.values()), drop=stops.at_once))
        busy = _answers(folder)
        master = _start_master(begin(listens), screen)
        stack.callback(lambda: dismiss([master], drop=True))
        if workers and _listens(master, folder, stops, busy=busy):
            announce()
            for worker in workers:
                fleet[worker] = _start_worker(run_dir, address, worker)
        say = _print if screen is None else screen.say
        code = _supervise(run_dir, folder, master, fleet, stops, say)
        if screen is not None and master.poll() is not None:
            with suppress(ApbmmError):  # how it ended, while the workers leave
                screen.show(from_journal(folder))
        return code


def _print(text: str) -> None:
    if logs_json():
        logging.getLogger(__name__).warning("%s", text)
        return
    print(text, file=sys.stderr)  # noqa: T201


def dashboard_port() -> int:
    """A port for the dashboard of a run: the usual one, or a free one where that is taken."""
    with suppress(OSError), socket.create_server((LOOPBACK, PORT)):
        return PORT
    return free_port()


def run_screen(
    run_dir: Path,
    workers: Sequence[LocalWorker],
    dashboard: int | None = None,
    joining: str = "",
) -> LiveScreen | None:
    """The live view of a run whose processes are about to start; None without a terminal.

    ``dashboard`` is the port of the run's dashboard. ``joining`` says how workers of other hosts
    join.
    """
    console = Console(highlight=False)
    if not has_screen(console):
        return None

    def look() -> Snapshot | None:
        address = local_address(confirm_folder(run_dir)) or local_address(run_dir)
        return ask(address) if address else None

    return LiveScreen(
        look,
        console=console,
        expected=[worker.name for worker in workers],
        log=run_dir / "master.log",
        hint="Ctrl-C finishes the evaluations in hand and stops; the same command goes on"
        + ("" if dashboard is None else f"\n{dashboard_in_words(dashboard)}")
        + (f"\n{joining}" if joining else ""),
    )


def dashboard_in_words(port: int) -> str:
    """Where the dashboard of a run on this host is."""
    return f"dashboard: http://{LOOPBACK}:{port}/"


def worker_folder(run_dir: Path, worker: LocalWorker) -> Path:
    """The folder with the log and the state of one worker."""
    return run_dir / "workers" / worker.name


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(
    master: subprocess.Popen[bytes], folder: Path, stops: StopRequests, *, busy: bool
) -> bool:
    """Wait until a master has taken its run over; False if it ends, or a signal comes, before.

    A master that refuses the run is then the only one to say something. ``busy``: another master
    answered for the run before this one was started, which will refuse it.
    """
    while master.poll() is None and not stops.numbers:
        answers = _answers(folder)
        if answers and not busy:
            return True
        busy = busy and answers
        time.sleep(POLL_SECONDS)
    return False


def _answers(folder: Path) -> bool:
    """Whether a master answers for the run of ``folder``, or for the confirmation at its end."""
    return any(map(local_address, (folder, confirm_folder(folder))))


def _start_worker(run_dir: Path, address: str, worker: LocalWorker) -> subprocess.Popen[bytes]:
    """Start a worker. One on a card takes the lock that all workers of this host share.

    The others lock their names in the run directory, so several runs can have workers on one CPU.
    """
    folder = worker_folder(run_dir, worker)
    folder.mkdir(parents=True, exist_ok=True)
    locks = {} if uses_card(worker.gpu) else {"APBMM_LOCK_DIR": str(folder.parent / "locks")}
    with (folder / "worker.log").open("ab") as log:
        return _start(worker_command(run_dir, address, worker), log, locks)


def _start_master(command: Sequence[str], screen: LiveScreen | None) -> subprocess.Popen[bytes]:
    """Start a master, which prints to the terminal or, beside a ``screen``, nothing but errors."""
    if screen is None:
        return _start(command)
    return _start(command, subprocess.DEVNULL, errors=screen.output)


def _start(
    command: Sequence[str],
    output: IO[bytes] | int | None = None,
    settings: Mapping[str, str] = EMPTY,
    errors: IO[bytes] | int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command; its output goes to ``output``, by default to where this process's goes.

    Its errors go there too, or to ``errors``.
    """
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("APBMM_") or key in INHERITED
    }
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output if errors is None else errors,
        env={**environment, **settings},
        process_group=0,
        preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509 - there are no threads yet
    )


@contextmanager
def _stop_requests() -> Iterator[StopRequests]:
    """Count SIGINT and SIGTERM, which would end the process."""
    stops = StopRequests()
    with handlers_restored():
        for number in STOPS:
            signal.signal(number, lambda n, _: stops.receive(n))
        yield stops


def _supervise(
    run_dir: Path,
    journal_folder: Path,
    master: subprocess.Popen[bytes],
    fleet: Mapping[LocalWorker, subprocess.Popen[bytes]],
    stops: StopRequests,
    say: Callable[[str], None],
) -> int:
    """Wait for the master's end; meanwhile forward signals and watch the workers.

    ``say`` tells a person something.
    """
    forwarded = False
    told: set[str] = set()
    checked = time.monotonic()
    while master.poll() is None:
        time.sleep(POLL_SECONDS)
        if stops.at_once:
            return stops.exit_code
        if stops.numbers and not forwarded:
            forwarded = True
            if not (journal_folder / JOURNAL).is_file():  # no evaluation has begun
                return stops.exit_code
            say("finishing the evaluations in hand; Ctrl-C again stops at once")
            master.send_signal(stops.numbers[0])
        _tell_of_dead_workers(run_dir, fleet, told, say)
        if fleet and all(process.poll() is not None for process in fleet.values()):
            raise WorkersLostError(
                f"every worker has ended: {_how_they_ended(run_dir, fleet)}",
                f"their logs are in {run_dir / 'workers'}; the same command goes on from here",
            )
        if time.monotonic() - checked > HEALTH_SECONDS:
            checked = time.monotonic()
            _require_fit_workers(run_dir, journal_folder)
    if master.returncode < 0:
        raise MasterLostError(
            f"the master {how_it_ended(master.returncode)}",
            f"nothing recorded is lost: the same command with this --run-dir goes on ({run_dir})",
        )
    return master.returncode


def _how_they_ended(run_dir: Path, fleet: Mapping[LocalWorker, subprocess.Popen[bytes]]) -> str:
    """How the workers ended, each way once, with the trouble that their logs end with."""
    ways: dict[str, list[str]] = {}
    for worker, process in fleet.items():
        way = _end_of_worker(run_dir, worker, process.returncode)
        ways.setdefault(way, []).append(worker.name)
    return "; ".join(
        f"worker {first} {way}" + (f", likewise {', '.join(others)}" if others else "")
        for way, (first, *others) in ways.items()
    )


def _end_of_worker(run_dir: Path, worker: LocalWorker, code: int) -> str:
    said = last_line(worker_folder(run_dir, worker) / "worker.log")
    return how_it_ended(code) + (f" ({said})" if TROUBLE.search(said) else "")


def _tell_of_dead_workers(
    run_dir: Path,
    fleet: Mapping[LocalWorker, subprocess.Popen[bytes]],
    told: set[str],
    say: Callable[[str], None],
) -> None:
    """Say once of each worker that it died, while others go on. ``told`` takes their names."""
    dead = [
        (worker, process.returncode)
        for worker, process in fleet.items()
        if process.poll() and worker.name not in told
    ]
    for worker, code in dead:
        told.add(worker.name)
        if len(told) < len(fleet):
            log = worker_folder(run_dir, worker) / "worker.log"
            say(
                f"worker {worker.name} {_end_of_worker(run_dir, worker, code)}: the others go on, "
                f"and evaluate anew what it held; its log is {log}; the same command later starts "
                "all workers again"
            )


def how_it_ended(code: int) -> str:
    """The end of a process by its return code, negative for a signal."""
    if code < 0:
        perhaps = "; perhaps the host ran out of memory" if -code == signal.SIGKILL else ""
        return f"was killed by signal {-code} ({signal.Signals(-code).name}{perhaps})"
    return f"ended with exit code {code}"


def _require_fit_workers(run_dir: Path, journal_folder: Path) -> None:
    """Raise `WorkersLostError` if every worker is unfit or quarantined."""
    address = local_address(journal_folder)
    if not address:
        return
    try:
        workers = ask(address)["workers"]
    except (NoMasterError, RequestFailedError, KeyError):
        return
    unfit = [worker for worker in workers if worker["state"] in ("unfit", "quarantined")]
    if workers and len(unfit) == len(workers):
        raise WorkersLostError(
            f"no worker can take part: {unfit[0]['reason']}",
            f"their logs are in {run_dir / 'workers'}",
        )


def last_line(log: Path) -> str:
    """The last line of a log that is neither empty nor a hint."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it left no log"
    said = [line for line in lines if line.strip() and not line.startswith("hint:")]
    return said[-1].strip() if said else "it left no log"


def dismiss(processes: Sequence[subprocess.Popen[bytes]], *, drop: bool) -> None:
    """End processes by signals; with ``drop`` they need not finish their work."""
    steps = (
        (signal.SIGTERM, DROP_SECONDS if drop else LEAVE_SECONDS),
        (signal.SIGTERM, LEAVE_SECONDS),
        (signal.SIGKILL, LEAVE_SECONDS),
    )
    for number, patience in steps:
        alive = [process for process in processes if process.poll() is None]
        for process in alive:
            process.send_signal(number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(p.poll() is None for p in alive):
            time.sleep(POLL_SECONDS / 4)
