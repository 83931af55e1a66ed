"""The daemon's evaluation child: its start, its commands and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from apbmm_common.errors import EvaluationError, WireError
from apbmm_common.protocol.messages import KeptAnswer
from apbmm_worker.child_protocol import (
    EVENTS,
    Answer,
    Command,
    EndAnswers,
    NewAnswers,
    StageProgress,
    Stop,
    UseAnswers,
)
from apbmm_worker.message_socket import LENGTH, body_length, child_command, message_in, to_bytes

MODULES = {"vllm": "apbmm_worker.child.main", "rehearsal": "apbmm_worker.child.rehearsal"}
ANSWERS_A_COMMAND = 32
"""Their longest fit into a message of the socket."""


class EvaluationChild:
    """One child process that holds the engine; it speaks `apbmm_worker.child_protocol`."""

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
        """Start the process in a session of its own; it inherits its socket and no other file.

        Raises `EvaluationError` (infrastructure) if the host cannot start it.
        """
        try:
            ours = await self._start()
        except OSError as error:
            raise EvaluationError(
                f"the evaluation process cannot be started: {error}", kind="infrastructure"
            ) from error
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self._last_event = time.monotonic()

    async def _start(self) -> socket.socket:
        """Start it, and return the daemon's end of its socket."""
        with contextlib.ExitStack() as ends:
            log_file = ends.enter_context(self._log_path.open("ab"))
            ours, theirs = map(ends.enter_context, socket.socketpair())
            self._process = await asyncio.create_subprocess_exec(
                *child_command(self._module, theirs),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
            )
            return ours.dup()

    async def ask(
        self,
        command: Command,
        report: Callable[[StageProgress], None],
        keep: Callable[[NewAnswers], None],
        kept: Sequence[KeptAnswer] = (),
    ) -> Answer:
        """Send one command and wait for its answer.

        Until then ``report`` gets the progress, and ``keep`` the new answers. ``kept`` has those of
        an earlier attempt. Raises `EvaluationError`: of kind ``engine`` if the child dies
        meanwhile, of kind ``infrastructure`` if it sends a message that is not an event.
        """
        assert self._reader is not None
        assert self._writer is not None
        self._last_event = time.monotonic()
        try:
            for first in range(0, len(kept), ANSWERS_A_COMMAND):
                some = tuple(kept[first : first + ANSWERS_A_COMMAND])
                self._writer.write(to_bytes(UseAnswers(answers=some)))
                await self._writer.drain()
            self._writer.write(to_bytes(command))
            await self._writer.drain()
            while True:
                prefix = await self._reader.readexactly(LENGTH.size)
                body = await self._reader.readexactly(body_length(prefix))
                event = message_in(body, EVENTS)
                self._last_event = time.monotonic()
                match event:
                    case StageProgress():
                        report(event)
                    case NewAnswers():
                        keep(event)
                    case _:
                        return event
        except asyncio.IncompleteReadError as error:
            raise self._died("it closed its socket") from error
        except ConnectionError as error:
            raise self._died(str(error)) from error
        except WireError as error:
            raise EvaluationError(
                f"the evaluation process sent an unsound event: {error.message}",
                f"this is a defect of apbmm; {self._log_path} has more",
                kind="infrastructure",
            ) from error

    def end_answers(self, lease: str) -> None:
        """Have the answers of an evaluation cut off; see `EndAnswers`. Nothing if it is dead."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(to_bytes(EndAnswers(lease=lease)))

    def _died(self, how: str) -> EvaluationError:
        code = self._process.returncode if self._process else None
        ended = f"exit status {code}" if code is not None else how
        return EvaluationError(
            f"the evaluation process died ({ended})",
            f"its log is {self._log_path}",
            kind="engine",
        )

    async def stop(self) -> None:
        """Ask the process to end, wait 3 s for it, then kill its whole process group."""
        if self._writer is not None:
            with contextlib.suppress(ConnectionError):
                self._writer.write(to_bytes(Stop()))
                self._writer.close()
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), 3)
        await self.kill()

    async def kill(self) -> None:
        """Kill the process and all processes that it started, and wait for it."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        if self._writer is not None:
            self._writer.close()
        self._process = None
        self._reader = None
        self._writer = None
