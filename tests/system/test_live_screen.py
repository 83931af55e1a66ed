"""`apbmm run` on a terminal: the live view, a terminal that changes its size, Ctrl-C, the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import DEADLINE, command_line, environment, processes_naming, run, write_rehearsal
from rehearsal_runs import write_run_file

pytestmark = pytest.mark.slow

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HOME = "\x1b[H"


class Terminal:
    """A pseudoterminal; ``text`` is everything that was written to it."""

    def __init__(self, columns: int, lines: int) -> None:
        self._ours, self.theirs = os.openpty()
        self.text = ""
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> None:
        """Take in what is written within a moment."""
        if select.select([self._ours], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):
                self.text += os.read(self._ours, 65536).decode(errors="replace")

    def read_until(self, piece: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while piece not in self.text:
            assert time.monotonic() < deadline, f"{piece!r} was never shown"
            self.read()

    def frame(self) -> list[str]:
        """The lines of the last whole frame."""
        whole = self.text.split(HOME)[-2]
        return CONTROL.sub("", whole).splitlines()

    def close(self) -> None:
        os.close(self._ours)
        os.close(self.theirs)


@contextlib.contextmanager
def shown_on(
    terminal: Terminal, command: str, *arguments: object
) -> Iterator[subprocess.Popen[bytes]]:
    """A command on the terminal, which are both gone at the end."""
    process = subprocess.Popen(
        command_line(command, *arguments),
        stdin=terminal.theirs,
        stdout=terminal.theirs,
        stderr=terminal.theirs,
        env=environment({"TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        terminal.close()


def test_the_view_follows_the_size_of_the_terminal_and_is_gone_at_the_end(tmp_path: Path) -> None:
    more_than_there_is_time_for = 4000
    run_file = write_rehearsal(tmp_path / "run.toml", evaluations=more_than_there_is_time_for)
    terminal = Terminal(80, 40)
    command = ("apbmm", "run", run_file, "--run-dir", tmp_path / "run")
    with shown_on(terminal, *command) as process:
        terminal.read_until("the master starts")
        terminal.read_until("Last completions")
        assert any("Ctrl-C finishes" in line for line in terminal.frame())
        terminal.resize(50, 20)
        shown = len(terminal.text)
        while terminal.text.count(HOME, shown) < 4:
            terminal.read()
        frame = terminal.frame()
        assert len(frame) <= 20
        assert max(map(len, frame)) <= 50
        assert any("Ctrl-C finishes" in line for line in frame)
        os.kill(process.pid, signal.SIGINT)
        terminal.read_until("run directory: ")
        assert process.wait(DEADLINE) == 130
    after = terminal.text.split("\x1b[?1049l")[-1]
    assert "finishing the evaluations in hand; Ctrl-C again stops at once" in after
    assert "not finished: the same command goes on from here" in after
    assert "Traceback" not in terminal.text
    assert processes_naming(str(run_file)) == []


def test_a_confirmation_has_the_same_view_and_ends_with_what_can_be_done_next(
    tmp_path: Path,
) -> None:
    held = [{"name": "sums", "adapter": "sums", "path": "/none/sums", "holdout": 0.3}]
    budget = {"evaluations": 3, "initial": 3}
    file = write_run_file(tmp_path / "run.toml", benchmarks=held, budget=budget)
    search = tmp_path / "run"
    assert run("apbmm", "run", file, "--run-dir", search).returncode == 0
    terminal = Terminal(120, 40)
    with shown_on(terminal, "apbmm", "confirm", search, "--gpus", "cpu") as process:
        terminal.read_until("the master starts")
        terminal.read_until("Workers")
        terminal.read_until("apbmm report")
        assert process.wait(DEADLINE) == 0
    after = CONTROL.sub("", terminal.text.split("\x1b[?1049l")[-1])
    assert "confirmed members of the front still hold" in after
    commands = [line.split()[1] for line in after.splitlines() if line.startswith("  apbmm ")]
    assert commands == ["pick", "report"]  # a rehearsal has nothing to export
    assert "waiting for workers" not in terminal.text
