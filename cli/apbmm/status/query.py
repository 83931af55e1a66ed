"""`apbmm status`: one snapshot of a run, from its master or from its journal."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from apbmm_common.errors import EXIT_DONE, EXIT_INTERRUPTED, ApbmmError, UsageError
from apbmm_common.protocol.curve_keys import ClientKeys, reader_keys

Snapshot = dict[str, Any]

RUNS = Path("runs")
JOURNAL = "journal.sqlite"
ANSWER_SECONDS = 3.0
"""How long a master that accepts connections may take; a dead one is noticed at once."""
REDRAW_SECONDS = 1.0


class NoMasterError(ApbmmError):
    """Nobody answers at a status address."""


@dataclass(frozen=True)
class Target:
    """What to ask: a run directory, or only the address of a master's status socket."""

    run_dir: Path | None
    address: str = ""
    keys: ClientKeys | None = None

    def snapshot(self) -> Snapshot:
        """The status now. Raises `NoMasterError` or `JournalError` when there is none."""
        if self.run_dir is None:
            return ask(self.address, self.keys)
        address = local_address(self.run_dir)
        if address:
            with contextlib.suppress(NoMasterError):
                return ask(address)
        return from_journal(self.run_dir)


def show_status(run: str | None, *, watch: bool, as_json: bool, keys: str | None = None) -> int:
    """Print the status of a run, once or until it is finished; returns the exit code."""
    if watch and as_json:
        raise UsageError(
            "--watch and --json exclude each other", "call apbmm status --json repeatedly"
        )
    target = find(run, keys)
    if as_json:
        json.dump(target.snapshot(), sys.stdout)
        sys.stdout.write("\n")
        return EXIT_DONE
    return _watch(target) if watch else _print(target)


def _print(target: Target) -> int:
    from apbmm.status.view import console, render

    console().print(render(target.snapshot()))
    return EXIT_DONE


def _watch(target: Target) -> int:
    from rich.live import Live

    from apbmm.status.view import console, render

    screen, last, code = console(), target.snapshot(), EXIT_DONE
    try:
        with Live(render(last), console=screen, auto_refresh=False) as live:
            while not _over(target, last):
                time.sleep(REDRAW_SECONDS)
                last = target.snapshot()
                live.update(render(last), refresh=True)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except NoMasterError:
        _require_end(target, last)
    finally:
        if not screen.is_terminal:  # where there is one, the last frame ends its line itself
            screen.line()
    return code


def _over(target: Target, last: Snapshot) -> bool:
    """Whether nothing can change any more; of a run directory the master's leaving, too."""
    return bool(last["finished"]) and not (target.run_dir and last["master_alive"])


def _require_end(target: Target, last: Snapshot) -> None:
    """Raise `NoMasterError` unless a master that has gone had come to an end by ``last``."""
    counts = last["evaluations"]
    if not (last.get("draining") or counts["done"] + counts["failed"] >= last["budget"]):
        raise NoMasterError(
            f"the master at {target.address} has gone, and its run was not finished",
            "the same apbmm-master command goes on with it",
        )
    sys.stderr.write(f"the master at {target.address} has ended\n")


def find(run: str | None, keys: str | None = None) -> Target:
    """What ``run`` names: an address, a run directory, or by default the latest under runs/.

    ``keys`` is the folder of keys for an address.
    """
    if run is None:
        return Target(latest_run(RUNS))
    if "://" in run:
        return Target(None, run, reader_keys(keys))
    return Target(
        run_directory(Path(run), "give the run directory of a run, or an address: tcp://HOST:PORT")
    )


def run_directory(named: Path, hint: str = "give the run directory of a run") -> Path:
    """The run directory that a folder or its journal names. Raises `UsageError`."""
    try:
        if named.is_file() and named.name != JOURNAL:
            raise UsageError(f"{named}: a file, and not a run directory", hint)
        folder = named.parent if named.is_file() else named
        if not folder.is_dir():
            raise UsageError(f"{named}: no such run directory", hint)
        if not (folder / JOURNAL).is_file():
            runs = sorted(str(file.parent) for file in folder.glob(f"*/{JOURNAL}"))
            raise UsageError(
                f"{named}: not a run directory: it holds no {JOURNAL}",
                f"name a run in it: {', '.join(runs)}" if runs else hint,
            )
    except OSError as error:
        raise UsageError(f"{named}: {error.strerror}", hint) from error
    return folder


def latest_run(folder: Path) -> Path:
    """The run under ``folder`` whose journal changed last."""
    journals = [
        (file.stat().st_mtime, file.parent)
        for name in (JOURNAL, JOURNAL + "-wal")
        for file in folder.glob(f"*/{name}")
    ]
    if not journals:
        raise UsageError(f"there is no run under {folder}/", "name a run directory")
    return max(journals)[1]


def local_address(run_dir: Path) -> str:
    """The status address of the master in ``run_dir``; empty when none lives there.

    A master that was killed leaves its address behind, so the socket is tried.
    """
    try:
        addresses = json.loads((run_dir / "status.json").read_text(encoding="utf-8"))
        address = str(addresses["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address.removeprefix("ipc://"))
        except OSError:
            return ""
    return address


def ask(address: str, keys: ClientKeys | None = None) -> Snapshot:
    """One snapshot from a status socket. Raises `NoMasterError` or `UsageError`."""
    with zmq.Context() as context, context.socket(zmq.REQ) as request:
        request.set(zmq.LINGER, 0)
        request.set(zmq.RCVTIMEO, int(ANSWER_SECONDS * 1000))
        if keys is not None:
            keys.secure(request)
        try:
            request.connect(address)
        except zmq.ZMQError as error:
            raise UsageError(f"{address}: {error}", "as in tcp://HOST:PORT") from error
        try:
            request.send(b"status")
            answer = json.loads(request.recv())
        except (zmq.Again, ValueError):
            raise NoMasterError(f"no master answers at {address}", _remedy(keys)) from None
    if not isinstance(answer, dict) or "error" in answer:
        raise NoMasterError(f"{address} is not a master's status socket: {answer}")
    return answer


def _remedy(keys: ClientKeys | None) -> str:
    if keys is None:
        return "does it run, and without keys? --keys names a folder of keys"
    return f"does it run, with these keys? they are in {keys.folder}; --keys none goes without"


def from_journal(run_dir: Path) -> Snapshot:
    """The status as the journal tells it. Raises `JournalError`."""
    from apbmm_master.journal.run_state import RunState
    from apbmm_master.journal.store import read_journal
    from apbmm_master.status.snapshot import journal_snapshot

    return journal_snapshot(RunState().replay(read_journal(run_dir)))
