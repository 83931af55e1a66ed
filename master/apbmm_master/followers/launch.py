"""Starts the followers of a run beside its master, and ends them with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from apbmm_common.errors import UsageError
from apbmm_common.run_file import RunSpec
from apbmm_master.followers.process import LAST_SECONDS, Ending
from apbmm_master.followers.track.kinds import require_tracker

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
NOTE_SECONDS = 3.0
"""After so long the terminal says what the master waits for."""
KILL_SECONDS = LAST_SECONDS + 5.0
"""A follower that lives so long after its master's end is killed."""


@dataclass(frozen=True)
class Beside:
    """What is served beside a master; None for what is not.

    ``metrics`` is where metrics are served (see `listening_socket`), ``dashboard`` the port of the
    dashboard.
    """

    metrics: str | None = None
    dashboard: int | None = None


NOTHING = Beside()


@dataclass(frozen=True)
class _Running:
    """A follower, and the task that logs its lines and waits for its end."""

    name: str
    process: asyncio.subprocess.Process
    listening: asyncio.Task[None]


class Followers:
    """The followers that a run file asks for, and those that are served ``beside`` the master.

    Raises `UsageError` for an address that cannot be listened on, and for a tracker that is not
    installed.
    """

    def __init__(self, run_dir: Path, spec: RunSpec, beside: Beside = NOTHING) -> None:
        self._run_dir = run_dir
        self._tracker = spec.track.tracker
        self._notifies = bool(spec.notify.command or spec.notify.webhook)
        if self._tracker is not None:
            require_tracker(self._tracker)
        with contextlib.ExitStack() as closing:
            self._sockets = {
                follower: closing.enter_context(listening_socket(str(address), f"--{follower}"))
                for follower, address in asdict(beside).items()
                if address is not None
            }
            self._closing = closing.pop_all()
        self._running: list[_Running] = []
        self._ending = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def dashboard(self) -> str:
        """What a browser of this host opens; "" without a dashboard."""
        serving = self._sockets.get("dashboard")
        return "" if serving is None else f"http://{LOOPBACK}:{serving.getsockname()[1]}/"

    async def start(self, seq: int) -> None:
        """Start them, once the journal, with ``seq`` events, and the status socket are there."""
        for name, serving in self._sockets.items():
            await self._start(name, str(serving.fileno()), inherits=(serving.fileno(),))
        if self._tracker is not None:
            await self._start("track", self._tracker)
        if self._notifies:
            await self._start("notify", str(seq))

    async def _start(self, name: str, *arguments: str, inherits: tuple[int, ...] = ()) -> None:
        try:
            with self._log(name).open("ab") as log_file:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-m", _module(name), str(self._run_dir), *arguments,
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                    stderr=log_file, pass_fds=inherits,
                    process_group=0,  # Ctrl-C is for the master, which tells its followers
                )  # fmt: skip
        except OSError as error:
            log.warning("%s: could not be started: %s", name, error)
            return
        listening = asyncio.create_task(self._listen(name, process))
        self._running.append(_Running(name, process, listening))

    def _log(self, name: str) -> Path:
        return self._run_dir / f"{name}.log"

    async def _listen(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            log.warning("%s: %s", name, line.decode(errors="replace").rstrip())
        code = await process.wait()
        if not self._ending:
            log.warning(
                "%s has ended (exit code %d), and the run goes on without: see %s",
                name,
                code,
                self._log(name),
            )
        elif code:
            log.warning(
                "%s did not come to its end (exit code %d), and the same command lets it go on: "
                "see %s",
                name,
                code,
                self._log(name),
            )

    async def end(self, ending: Ending) -> None:
        """Tell them how the master ended, and wait for what they still do, but not for long."""
        self._ending = True
        for follower in self._running:
            assert follower.process.stdin is not None
            with contextlib.suppress(OSError):
                follower.process.stdin.write(ending.encode())
                follower.process.stdin.close()
        busy = {follower.listening for follower in self._running}
        if busy:
            _, busy = await asyncio.wait(busy, timeout=NOTE_SECONDS)
        if busy:
            names = ", ".join(f.name for f in self._running if f.listening in busy)
            log.warning("waiting for %s, up to %d s", names, LAST_SECONDS)
            await asyncio.wait(busy, timeout=KILL_SECONDS - NOTE_SECONDS)
        for follower in self._running:
            if follower.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    follower.process.kill()
                await follower.listening


def _module(name: str) -> str:
    """What is started. The dashboard is one of the command's rooms, and shares others of these."""
    return "apbmm.dashboard" if name == "dashboard" else f"apbmm_master.followers.{name}"


def listening_socket(address: str, flag: str) -> socket.socket:
    """A TCP socket that listens on ``PORT`` of the loopback interface, or on ``HOST:PORT``.

    Raises `UsageError`, naming ``flag``, for any other text, and where it cannot listen.
    """
    found = re.fullmatch(r"(?:(?P<host>\[[^\]]+\]|[^\s:\[\]]+):)?(?P<port>\d{1,5})", address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise UsageError(
            f"{flag} {address}: neither a port nor an address", "as in 9464 or 0.0.0.0:9464"
        )
    host, port = (found["host"] or LOOPBACK).strip("[]"), int(found["port"])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(
            f"{flag} {address}: cannot be listened on: {reason}",
            "name another port, or another address of this host",
        ) from error
