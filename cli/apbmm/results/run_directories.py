"""Finds run directories, and the status address of the master that serves one."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from apbmm_common.errors import UsageError
from apbmm_common.process.known_runs import JOURNAL, latest_places, places_ending, places_of

RUNS = Path("runs")


def find_run(named: str | None, hint: str = "give the run directory or name of a run") -> Path:
    """The run directory ``named``, by its path or by the run's name; None is the latest in runs/.

    A name is that of a folder in runs/, of a run, or of its run file. A relative path that does not
    exist here may be the end of the path of a run of this user. Raises `UsageError` where there is
    none, or where several runs are meant.
    """
    if named is None:
        return latest_run(RUNS)
    folder = Path(named)
    if not os.path.lexists(folder):
        is_name = folder.name == named
        if is_name and (RUNS / named / JOURNAL).is_file():
            return RUNS / named
        places = (places_of(named) if is_name else []) or places_ending(folder)
        if len(places) > 1:
            raise UsageError(
                f"{named}: {len(places)} runs are called so",
                f"name one of {', '.join(map(str, places))}",
            )
        if places:
            return places[0]
    return run_directory(folder, hint)


def run_directory(named: Path, hint: str = "give the run directory of a run") -> Path:
    """The run directory ``named``, or that of the journal ``named``. Raises `UsageError`."""
    try:
        if named.is_file() and named.name != JOURNAL:
            raise UsageError(f"{named}: a file, and not a run directory", hint)
        folder = named.parent if named.is_file() else named
        if not folder.is_dir():
            raise UsageError(f"{named}: no such run directory", hint + _latest_known())
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
    """The run under ``folder`` whose journal changed last. Raises `UsageError` if there is none."""
    journals = [
        (file.stat().st_mtime, file.parent)
        for name in (JOURNAL, JOURNAL + "-wal")
        for file in folder.glob(f"*/{name}")
    ]
    if not journals:
        raise no_run(folder)
    return max(journals)[1]


def no_run(folder: Path) -> UsageError:
    """The error where nothing is named and ``folder`` has no run; it names the user's latest."""
    return UsageError(f"there is no run under {folder}/", f"name a run directory{_latest_known()}")


def _latest_known() -> str:
    """What a hint adds about the runs of this user; "" if none is known."""
    known = ", ".join(map(str, latest_places(3)))
    return f"; the latest of this user: {known}" if known else ""


def local_address(run_dir: Path) -> str:
    """The status address of the master of ``run_dir``; "" if no master answers this user there."""
    try:
        return _connected(run_dir)
    except OSError:
        return ""


def may_not_ask(run_dir: Path) -> bool:
    """Whether a status socket is there that only another user may connect to.

    Whether a master lives behind it is not to be known then.
    """
    try:
        _connected(run_dir)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _connected(run_dir: Path) -> str:
    """The address in a run directory, after a connection to it; "" where there is none.

    A master that was killed leaves its address file behind. Raises OSError where nobody listens.
    """
    try:
        addresses = json.loads((run_dir / "status.json").read_text(encoding="utf-8"))
        address = str(addresses["status"])
    except (ValueError, KeyError, TypeError):
        return ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.connect(address.removeprefix("ipc://"))
    return address
