"""The daemon's end of an evaluation child, for tests of the child alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from apbmm_worker.child_protocol import (
    EVENTS,
    Answer,
    Command,
    EngineFree,
    Evaluate,
    Event,
    NewAnswers,
    OfReport,
    StageProgress,
)
from apbmm_worker.daemon.evaluation_job import EvaluationJob
from apbmm_worker.message_socket import LENGTH, body_length, child_command, message_in, to_bytes


def in_session(leader: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, _, _, session = (entry / "stat").read_text().rpartition(") ")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(entry.name))
    return found


def engine_core(leader: int) -> int:
    """The process of a session that vLLM runs its engine in. Names are cut to 15 characters."""
    names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in in_session(leader)}
    (core,) = (pid for pid, name in names.items() if name.endswith("EngineCor"))
    return core


def pid_of_child(job: EvaluationJob) -> int:
    """The evaluation process of a daemon's job."""
    assert job._child is not None
    assert job._child._process is not None
    return job._child._process.pid


class Daemon:
    """The daemon's end of the child's socket."""

    def __init__(self, log: Path, **environment: str) -> None:
        self._socket, theirs = socket.socketpair()
        self.log = log
        self.outputs = log.parent / "outputs"
        self.told: list[NewAnswers] = []
        """What the child said of its answers."""
        with theirs, log.open("ab") as output:
            self.process = subprocess.Popen(
                child_command("apbmm_worker.child.main", theirs),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path)), **environment},
            )
        self._events = self._socket.makefile("rb")

    def send(self, command: Command) -> None:
        """Send a command."""
        self._socket.sendall(to_bytes(command))

    def receive(self) -> Event | None:
        """The next event; None at the end of the socket."""
        prefix = self._events.read(LENGTH.size)
        if len(prefix) < LENGTH.size:
            return None
        return message_in(self._events.read(body_length(prefix)), EVENTS)

    def ask(self, command: Command) -> tuple[Answer, list[StageProgress]]:
        """Send a command; its answer, and the progress before it."""
        self.send(command)
        progress: list[StageProgress] = []
        while event := self.receive():
            match event:
                case StageProgress():
                    progress.append(event)
                case NewAnswers():
                    self.told.append(event)
                case EngineFree() | OfReport():
                    raise AssertionError("only where it may be free early")
                case _:
                    return event, progress
        raise EOFError(self.log.read_text()[-2000:])

    def evaluate(self, evaluation: str, vector: list[float]) -> tuple[Answer, list[StageProgress]]:
        """Have one vector evaluated."""
        return self.ask(self.evaluate_command(evaluation, vector))

    def evaluate_command(self, evaluation: str, vector: list[float]) -> Evaluate:
        """The command for it."""
        return Evaluate(evaluation=evaluation, vector=tuple(vector), outputs=str(self.outputs))

    def group(self) -> list[int]:
        """Processes of the child's session that are alive."""
        return in_session(self.process.pid)

    def end(self) -> None:
        """Kill the whole group, as the daemon does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._events.close()
        self._socket.close()
