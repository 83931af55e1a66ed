"""Run the commands as an operator would, in processes of their own."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

from apbmm_common.process.command_line import run_app
from free_ports import free_port

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[2]
SIGNALS_BY_DEFAULT = ("env", "--default-signal=INT,HUP")
"""What a test puts before a command that it may send SIGINT or SIGHUP.

A process that ignores a signal passes this on to its children. Shells start background jobs so,
nohup does, and some CI runners start everything so. The commands keep what they inherit, and would
ignore the test.
"""
DEADLINE = 500.0
"""Seconds that anything may take on a loaded machine; no test depends on it being reached."""
MODULES = {
    "apbmm": "apbmm.cli",
    "apbmm-master": "apbmm_master.cli",
    "apbmm-worker": "apbmm_worker.cli",
}

REHEARSAL = """
name = "trial"
{extra}
[sources]
thinking = "thinking"
instruct = "instruct"
[[benchmarks]]
name = "alpha"
adapter = "aime25"
path = "alpha"
[[benchmarks]]
name = "beta"
adapter = "gpqa_diamond"
path = "beta"
[generation]
max_tokens = 100
context = 200
[algorithm]
name = "uniform"
[budget]
evaluations = {evaluations}
initial = {initial}
[evaluation]
kind = "rehearsal"
layers = 12
rehearsal_seconds = {seconds}
"""


def command_line(command: str, *arguments: object) -> list[str]:
    """A command by its name, run by this interpreter."""
    return [sys.executable, "-m", MODULES[command], *map(str, arguments)]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without settings of apbmm, with bytecode caches, plus ``extra``."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("APBMM_")}
    ours.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**ours, **(extra or {})}


def run(
    command: str,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = DEADLINE,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it takes seconds, or minutes on a machine that is busy."""
    return subprocess.run(
        [*SIGNALS_BY_DEFAULT, *command_line(command, *arguments)],
        capture_output=True,
        text=True,
        env=environment(env),
        cwd=cwd,
        timeout=timeout,
        check=False,
    )


def called(
    *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`apbmm` in this process and its environment: cheaper than `run`, for what ends at once."""
    from apbmm.app import app

    output, errors = io.StringIO(), io.StringIO()
    line = ["apbmm", *map(str, arguments)]
    with (
        kept_logging(),
        patch.object(sys, "argv", line),
        patch.dict(os.environ, env or {}),
        chdir(cwd or Path()),
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        code = run_app(app)
    return subprocess.CompletedProcess(line, code, output.getvalue(), errors.getvalue())


@contextmanager
def kept_logging() -> Iterator[None]:
    """The root logger has the handlers and the level again that it had before."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def started(
    command: str, *arguments: object, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A running command, killed at the end if it is still there; its output goes to ``log``."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*SIGNALS_BY_DEFAULT, *command_line(command, *arguments)],
            stdout=output,
            stderr=output,
            env=environment(env),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def write_rehearsal(
    path: Path, *, evaluations: int = 6, seconds: float = 0.3, initial: int = 4, extra: str = ""
) -> Path:
    """A run file that invents its measurements."""
    text = REHEARSAL.format(evaluations=evaluations, seconds=seconds, initial=initial, extra=extra)
    path.write_text(text, encoding="utf-8")
    return path


def free_address() -> str:
    """A loopback address that nobody listens on."""
    return f"tcp://127.0.0.1:{free_port()}"


def wait_until(condition: Callable[[], T], seconds: float = DEADLINE) -> T:
    """Poll until ``condition`` is true, and return what it is; fails the test when it never is."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)
    return value


def process_naming(*texts: str) -> int:
    """The one process whose command line holds each of ``texts``, waited for.

    What it starts has its command line, too, for a moment between fork and exec.
    """

    def only() -> int | None:
        found = processes_naming(*texts)
        return found[0] if len(found) == 1 else None

    process = wait_until(only)
    assert process is not None
    return process


def processes_naming(*texts: str) -> list[int]:
    """Processes whose command line holds each of ``texts``, except this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if all(text in line for text in texts):
            found.append(int(entry.name))
    return found
