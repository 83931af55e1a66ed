"""The processes of `apbmm demo`: one master and its workers, which never outlive the demo.

Every child leads its own process group, so Ctrl-C reaches only this process, which then stops the
children in order. If this process dies, the kernel kills them. Both are safe at any moment, because
the master's records are on disk.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from apbmm.results.run_directories import local_address
from apbmm.status.query import NoMasterError, ask
from apbmm_common.errors import ApbmmError
from apbmm_common.process.known_runs import JOURNAL
from apbmm_common.process.parent_death import die_with
from apbmm_common.process.signals import (
    SAME_REQUEST_SECONDS,
    STOPS,
    StopRequests,
    handlers_restored,
)

POLL_SECONDS = 0.2
HEALTH_SECONDS = 5.0
LEAVE_SECONDS = 20.0
DROP_SECONDS = 1.5 * SAME_REQUEST_SECONDS
"""How long a process may take to end (or, when dropped, to begin ending) before the next signal."""


class WorkersLostError(ApbmmError):
    """No worker can do the run's work any more."""


class MasterLostError(ApbmmError):
    """The master was killed."""


def master_command(run_dir: Path, address: str) -> list[str]:
    """The command line of the demo's search. The demo prints the summary itself."""
    options = ["--run-dir", str(run_dir), "--bind", address, "--keys", "none", "--no-summary"]
    return [sys.executable, "-P", "-m", "apbmm_master.cli", str(run_dir / "demo.toml"), *options]


def run_processes(
    run_dir: Path,
    workers: int,
    *,
    rehearsal: bool,
    begin: Callable[[Path, str], list[str]] = master_command,
    journal_folder: Path | None = None,
) -> int:
    """Run a master to its end, with ``workers`` workers; returns the exit code.

    ``begin`` makes the master's command line from the run directory and the address that
    it listens on: by default that of the search in ``run_dir/demo.toml``. ``journal_folder`` is
    where that master keeps its journal, by default the run directory.
    """
    address = f"tcp://127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        stops = stack.enter_context(_stop_requests())
        fleet: list[subprocess.Popen[bytes]] = []
        stack.callback(lambda: dismiss(fleet, drop=stops.at_once))
        master = _start(begin(run_dir, address))
        stack.callback(lambda: dismiss([master], drop=True))
        for number in range(1, workers + 1):
            command = worker_command(run_dir, address, number, rehearsal=rehearsal)
            fleet.append(_start(command, worker_folder(run_dir, number) / "worker.log"))
        return _supervise(run_dir, journal_folder or run_dir, master, fleet, stops)


def worker_command(run_dir: Path, address: str, number: int, *, rehearsal: bool) -> list[str]:
    """The command line of one worker."""
    gpu = "rehearsal" if rehearsal else "cpu"
    state = worker_folder(run_dir, number)
    options = ["--gpu", gpu, "--master", address, "--keys", "none"]
    identity = ["--name", f"demo-{number}", "--state", str(state)]
    return [sys.executable, "-P", "-m", "apbmm_worker.cli", *options, *identity]


def worker_folder(run_dir: Path, number: int) -> Path:
    """The folder with the log and the state of one worker."""
    return run_dir / "workers" / f"demo-{number}"


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(command: Sequence[str], log: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a command; its output goes to ``log``, by default to where this process's goes."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("APBMM_") or key == "APBMM_LOG_FORMAT"
    }
    with ExitStack() as stack:
        output = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            # Workers lock their names in the run directory, so several demos can run on one host.
            environment["APBMM_LOCK_DIR"] = str(log.parent.parent / "locks")
            output = stack.enter_context(log.open("ab"))
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
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
    fleet: Sequence[subprocess.Popen[bytes]],
    stops: StopRequests,
) -> int:
    """Wait for the master's end; meanwhile forward signals and watch the workers."""
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
            print("finishing the evaluations in hand; Ctrl-C again stops at once", file=sys.stderr)  # noqa: T201
            master.send_signal(stops.numbers[0])
        _tell_of_dead_workers(run_dir, fleet, told)
        if all(worker.poll() is not None for worker in fleet):
            raise WorkersLostError(
                f"every worker has ended: {last_line(worker_folder(run_dir, 1) / 'worker.log')}",
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


def _tell_of_dead_workers(
    run_dir: Path, fleet: Sequence[subprocess.Popen[bytes]], told: set[str]
) -> None:
    """Print once of each worker that it died, while others go on. ``told`` takes their names."""
    dead = [
        (folder, worker.returncode)
        for number, worker in enumerate(fleet, 1)
        if worker.poll() and (folder := worker_folder(run_dir, number)).name not in told
    ]
    for folder, code in dead:
        told.add(folder.name)
        if len(told) < len(fleet):
            print(  # noqa: T201
                f"worker {folder.name} {how_it_ended(code)}: the others go on, and evaluate anew "
                f"what it held; its log is {folder / 'worker.log'}; the same command later starts "
                "all workers again",
                file=sys.stderr,
            )


def how_it_ended(code: int) -> str:
    """The end of a process by its return code, negative for a signal."""
    if code < 0:
        return f"was killed ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"


def _require_fit_workers(run_dir: Path, journal_folder: Path) -> None:
    """Raise `WorkersLostError` if every worker is unfit or quarantined."""
    address = local_address(journal_folder)
    if not address:
        return
    try:
        workers = ask(address)["workers"]
    except (NoMasterError, KeyError):
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
