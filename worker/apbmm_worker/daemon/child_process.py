"""The daemon's side of its evaluation child: start, talk, kill the whole process group."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from apbmm_common.errors import EvaluationError

LONGEST_LINE = 64 << 20
LOG_TAIL = 2000
MODULES = {"vllm": "apbmm_worker.child.main", "rehearsal": "apbmm_worker.child.rehearsal"}


class EvaluationChild:
    """One child process that holds the engine. Commands and events are JSON lines.

    ``quiet`` tells how long it has shown no progress, in seconds.
    """

    def __init__(self, kind: str, log_path: Path) -> None:
        self._module = MODULES[kind]
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._last_event = time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def quiet(self) -> float:
        """Seconds since its last event or command."""
        return time.monotonic() - self._last_event

    async def start(self) -> None:
        """Start the process in a session of its own, with nothing but its socket inherited.

        Raises `EvaluationError` of kind ``infrastructure`` when this host lets none be started.
        """
        try:
            ours = await self._start()
        except OSError as error:
            raise EvaluationError(
                f"the evaluation process cannot be started: {error}", kind="infrastructure"
            ) from error
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        self._last_event = time.monotonic()

    async def _start(self) -> socket.socket:
        """Start it; our end of its socket."""
        with contextlib.ExitStack() as ends:
            log_file = ends.enter_context(self._log_path.open("ab"))
            ours, theirs = map(ends.enter_context, socket.socketpair())
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self._module,
                "--fd", str(theirs.fileno()), "--parent", str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL, stdout=log_file, stderr=log_file,
                pass_fds=(theirs.fileno(),), start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
            )  # fmt: skip
            return ours.dup()

    async def events(self, command: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Send one command and yield its events, the last of which is not ``progress``.

        Raises `EvaluationError` of kind ``engine`` when the child dies meanwhile.
        """
        assert self._reader is not None
        assert self._writer is not None
        self._last_event = time.monotonic()
        try:
            self._writer.write(json.dumps(command).encode() + b"\n")
            await self._writer.drain()
            while line := await self._reader.readline():
                self._last_event = time.monotonic()
                event: dict[str, Any] = json.loads(line)
                yield event
                if event["event"] != "progress":
                    return
        except (ConnectionError, ValueError) as error:
            raise self._died(str(error)) from error
        raise self._died("it closed its socket")

    def _died(self, how: str) -> EvaluationError:
        code = self._process.returncode if self._process else None
        ended = f"exit status {code}" if code is not None else how
        return EvaluationError(
            f"the evaluation process died ({ended})",
            f"its log is {self._log_path}",
            kind="engine",
        )

    async def stop(self) -> None:
        """End it: politely for a moment, then its whole process group."""
        if self._writer is not None:
            with contextlib.suppress(ConnectionError):
                self._writer.write(b'{"op":"stop"}\n')
                self._writer.close()
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), 3)
        await self.kill()

    async def kill(self) -> None:
        """Kill the process and everything it started, and wait for it."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        if self._writer is not None:
            self._writer.close()
        self._process = self._reader = self._writer = None
