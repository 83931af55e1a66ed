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
    EngineFree,
    Event,
    NewAnswers,
    OfReport,
    StageProgress,
    Stop,
    UseAnswers,
)
from apbmm_worker.message_socket import LENGTH, body_length, child_command, message_in, to_bytes

MODULES = {"vllm": "apbmm_worker.child.main", "rehearsal": "apbmm_worker.child.rehearsal"}
ANSWERS_A_COMMAND = 32
"""Their longest fit into a message of the socket."""


class ReportLostError(Exception):
    """The report of an evaluation is lost with its process, which was at work on another one."""


class Talk:
    """One command under way: its ``answer`` to come, and what takes the events before it.

    ``report`` gets the progress, and ``keep`` the new answers. ``engine_is_free`` is set when only
    the report is missing: the next command may be sent then.
    """

    def __init__(
        self,
        report: Callable[[StageProgress], None],
        keep: Callable[[NewAnswers], None] = lambda _: None,
    ) -> None:
        self.report = report
        self.keep = keep
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.answer.add_done_callback(lambda a: a.cancelled() or a.exception())  # asked for or not
        self.engine_is_free = asyncio.Event()
        self.heard()

    def heard(self) -> None:
        """Note a sign of life, or that it begins."""
        self._last_event = time.monotonic()

    @property
    def quiet(self) -> float:
        """Seconds since its last event or its command."""
        return time.monotonic() - self._last_event

    def take(self, event: StageProgress | NewAnswers | Answer) -> bool:
        """Take an event; whether it was the last one."""
        self.heard()
        match event:
            case StageProgress():
                self.report(event)
                return False
            case NewAnswers():
                self.keep(event)
                return False
        if not self.answer.done():
            self.answer.set_result(event)
        return True

    def fail(self, error: Exception) -> None:
        """End without an answer."""
        if not self.answer.done():
            self.answer.set_exception(error)


class EvaluationChild:
    """One child process that holds the engine; it speaks `apbmm_worker.child_protocol`."""

    def __init__(self, kind: str, log_path: Path) -> None:
        self._module = MODULES[kind]
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._talk: Talk | None = None
        self._reporting: Talk | None = None
        self._listening: asyncio.Task[None] | None = None
        self._broken: EvaluationError | None = None
        self._is_killed = False

    @property
    def alive(self) -> bool:
        """Whether the process runs, and can be heard."""
        runs = self._process is not None and self._process.returncode is None
        return runs and self._broken is None

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
        self._listening = asyncio.create_task(self._listen())

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

    async def ask(self, command: Command, talk: Talk, kept: Sequence[KeptAnswer] = ()) -> Answer:
        """Send one command and wait for its answer; ``talk`` takes what comes before it.

        ``kept`` has answers of an earlier attempt. Raises `EvaluationError`: of kind ``engine`` if
        the child dies meanwhile, of kind ``infrastructure`` if it sends a message that is not an
        event. Raises `ReportLostError` if only the report was missing, and another command, or its
        end, took that with it.
        """
        assert self._writer is not None
        if self._broken is not None:
            raise self._broken
        self._talk = talk
        try:
            for first in range(0, len(kept), ANSWERS_A_COMMAND):
                some = tuple(kept[first : first + ANSWERS_A_COMMAND])
                self._writer.write(to_bytes(UseAnswers(answers=some)))
                await self._writer.drain()
            self._writer.write(to_bytes(command))
            await self._writer.drain()
        except ConnectionError as error:
            raise self._died(str(error)) from error
        return await talk.answer

    @property
    def is_asked(self) -> bool:
        """Whether a command is under way that needs the engine."""
        return self._talk is not None

    async def reported(self, stall: float) -> None:
        """Wait until no report is made any more, or it has shown no progress for ``stall`` s."""
        talk = self._reporting
        while talk is not None and not talk.answer.done() and talk.quiet < stall:
            await asyncio.wait({talk.answer}, timeout=min(1.0, stall / 4))

    async def _listen(self) -> None:
        """Bring every event to its talk until the child has died."""
        assert self._reader is not None
        try:
            while True:
                prefix = await self._reader.readexactly(LENGTH.size)
                body = await self._reader.readexactly(body_length(prefix))
                self._take(message_in(body, EVENTS))
        except asyncio.IncompleteReadError:
            error = self._died("it closed its socket")
        except ConnectionError as lost:
            error = self._died(str(lost))
        except WireError as unsound:
            error = EvaluationError(
                f"the evaluation process sent an unsound event: {unsound.message}",
                f"this is a defect of apbmm; {self._log_path} has more",
                kind="infrastructure",
            )
        self._end_talks(error)

    def _end_talks(self, error: EvaluationError) -> None:
        self._broken = error
        if self._reporting is not None:
            takes_it_along = self._is_killed or self._talk is not None
            self._reporting.fail(ReportLostError() if takes_it_along else error)
        if self._talk is not None:
            self._talk.fail(error)

    def _take(self, event: Event) -> None:
        match event:
            case EngineFree():
                self._reporting, self._talk = self._talk, None
                if self._reporting is not None:
                    self._reporting.engine_is_free.set()
            case OfReport(event=of_report):
                if self._reporting is not None and self._reporting.take(of_report):
                    self._reporting = None
            case _:
                if self._talk is not None and self._talk.take(event):
                    self._talk = None

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
        self._is_killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        if self._listening is not None:
            self._end_talks(self._died("it was killed"))
            self._listening.cancel()
            await asyncio.wait({self._listening})
        if self._writer is not None:
            self._writer.close()
        self._process = None
        self._reader = None
        self._writer = None
