"""`apbmm dashboard`: serves the dashboard until it is stopped."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from apbmm.installed import MASTER_HINT, require_installed
from apbmm.results.run_directories import RUNS, find_run, no_run
from apbmm_common.errors import EXIT_DONE, UsageError
from apbmm_common.protocol.curve_keys import reader_keys
from apbmm_master.journal.run_start.confirmation import confirm_folder

if TYPE_CHECKING:
    import threading

    from apbmm.dashboard.followed_run import FollowedRun

LOOPBACK = "127.0.0.1"
PORT = 5757
"""Where the dashboard is by default; a free port where this one is taken."""


@dataclass(frozen=True)
class DashboardRequest:
    """What the command line asks for; None stands for an option that was not given."""

    runs: Sequence[str] = ()
    host: str = LOOPBACK
    port: int | None = None
    keys: str | None = None


def run_dashboard(request: DashboardRequest) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Raises `UsageError` for a run that there is not, for an address that cannot be listened on, and
    where a package is not installed.
    """
    from apbmm.dashboard.followed_run import FollowedRun, RemoteRun

    named: list[FollowedRun] = []
    for run in request.runs:
        if "://" in run:
            keys = reader_keys(request.keys)
            named.append(RemoteRun(Path(run), run, address=run, keys=keys))
        else:
            folder = find_run(run, "give the run directory or name of a run, or an address")
            named.append(FollowedRun(folder, str(folder)))
    if not named and not RUNS.is_dir():
        raise no_run(RUNS)
    _require_installed()
    with contextlib.closing(_listen(request.host, request.port)) as listening:
        token = "" if is_loopback(request.host) else secrets.token_urlsafe(24)
        address = _address(request.host, listening.getsockname()[1], token)

        def announce() -> None:
            print(f"dashboard: {address}", file=sys.stderr, flush=True)  # noqa: T201

        _serve(named, listening, request.host, token, announce)
    return EXIT_DONE


def serve_beside_master(run_dir: Path, listening: socket.socket) -> None:
    """Serve the run of the master that has started this process, until it ends."""
    from apbmm.dashboard.followed_run import FollowedRun
    from apbmm_master.followers.process import FollowedMaster

    master = FollowedMaster()
    try:
        _require_installed()
    except UsageError as error:
        master.say(str(error))
        return

    # The confirmation of a search is shown with the search.
    search = run_dir.parent if confirm_folder(run_dir.parent) == run_dir else run_dir
    run = FollowedRun(search, str(search))
    _serve([run], listening, LOOPBACK, "", lambda: None, master.ended)


def _require_installed() -> None:
    """Raise `UsageError` where a package is missing that the dashboard needs."""
    needed = ("altair", "jinja2", "vl_convert", "starlette", "uvicorn", "sse_starlette")
    require_installed("the dashboard serves charts to a browser", needed, MASTER_HINT)


def _serve(
    named: Sequence[FollowedRun],
    listening: socket.socket,
    host: str,
    token: str,
    announce: Callable[[], object],
    ended: threading.Event | None = None,
) -> None:
    from apbmm.dashboard.guard import Guard, own_names
    from apbmm.dashboard.server import application, serve
    from apbmm.dashboard.watched_runs import WatchedRuns

    cookie = f"apbmm-dashboard-{listening.getsockname()[1]}"
    guard = partial(Guard, names=own_names(host), token=token, cookie=cookie)
    serve(application(WatchedRuns(named), guard), listening, announce, ended)


def is_loopback(host: str) -> bool:
    """Whether only this host can reach what listens on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens on ``host``. Raises `UsageError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, PORT if port is None else port, type=socket.SOCK_STREAM
        )[0]
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror}", "as in 0.0.0.0") from error
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            listening.bind(address)
        except OSError:
            if port is not None:
                raise
            listening.bind((address[0], 0, *address[2:]))
        listening.listen()
    except OSError as error:
        listening.close()
        raise UsageError(
            f"cannot listen on {host}, port {port}: {error.strerror}", "name another --port"
        ) from error
    return listening


def _address(host: str, port: int, token: str) -> str:
    """What a browser opens. An address of all interfaces is shown by this host's name."""
    name = host
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            name = socket.gethostname()
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/{f'?token={token}' if token else ''}"
