"""Real master and worker processes on rehearsal runs, for system tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import zmq

from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import RunSpec, parse_run
from apbmm_master.journal.events import (
    AttemptFailed,
    DuplicateResult,
    Leased,
    Lost,
    Record,
    ResultRecorded,
)
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from commands import DEADLINE, SIGNALS_BY_DEFAULT
from free_ports import free_port

T = TypeVar("T")
NOTHING: Mapping[str, str] = MappingProxyType({})


def run_table(**changes: Any) -> dict[str, Any]:
    """A rehearsal run file as a table; keyword arguments replace or extend its tables.

    Its method needs no PyTorch, whose import is more than all else that a short run computes in
    the process of the search. All components of a vector are equal. There are as many vectors as
    the budget has evaluations, and none in place of one that fails.
    """
    table: dict[str, Any] = {
        "name": "rehearsed",
        "seed": 3,
        "sources": {"thinking": "/none/thinking", "instruct": "/none/instruct"},
        "benchmarks": [{"name": "sums", "adapter": "sums", "path": "/none/sums"}],
        "generation": {"max_tokens": 64, "context": 128},
        "algorithm": {"name": "uniform"},
        "budget": {"evaluations": 6, "initial": 6},
        "evaluation": {"kind": "rehearsal", "layers": 4, "rehearsal_seconds": 0.2},
        "timings": {"beat": 0.2, "suspect": 20.0, "unreachable": 40.0, "resend": 0.5},
    }
    for key, value in changes.items():
        table[key] = {**table.get(key, {}), **value} if isinstance(value, dict) else value
    return table


def run_spec(**changes: Any) -> RunSpec:
    """`run_table`, validated."""
    return parse_run(run_table(**changes), "test")


def write_run_file(path: Path, **changes: Any) -> Path:
    """`run_table` as TOML (dotted keys, one a line), without keys that are None."""
    table = run_table(**changes)
    benchmarks = table.pop("benchmarks")
    lines = []
    for key, value in table.items():
        items = value.items() if isinstance(value, dict) else [("", value)]
        given = [(k, v) for k, v in items if v is not None]
        lines += [f"{key}{'.' * bool(k)}{k} = {_toml(v)}" for k, v in given]
    for benchmark in benchmarks:
        lines += ["[[benchmarks]]", *(f"{k} = {_toml(v)}" for k, v in benchmark.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def wait_for(what: str, probe: Callable[[], T | bool | None], seconds: float = DEADLINE) -> T:
    """Poll until ``probe`` gives something true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = probe()
        if found:
            return found  # type: ignore[return-value]
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:g} s for {what}")


@dataclass
class Process:
    """One process of ours in a session of its own, its output in a file."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        self.popen.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait for it."""
        self.popen.kill()
        self.popen.wait()

    def end(self, seconds: float = DEADLINE) -> int:
        """Wait for it to exit by itself; its exit code."""
        return self.popen.wait(seconds)

    def dies_at(self, step: str) -> None:
        """Wait for the death that was arranged; a step that is never reached is an error."""
        code = self.end()
        assert code == -signal.SIGKILL, f"{step} was not reached: {code}\n{self.output[-3000:]}"

    def go_on(self) -> None:
        """Let a worker's evaluation go on that hangs, or that has yet to come to where it does."""
        (evaluating,) = self.children()
        os.kill(evaluating, signal.SIGCONT)

    def children(self) -> list[int]:
        """Process ids of its children."""
        folder = Path(f"/proc/{self.popen.pid}/task")
        with contextlib.suppress(OSError):
            return [
                int(pid)
                for task in folder.iterdir()
                for pid in (task / "children").read_text().split()
            ]
        return []


def press(process: Process) -> int:
    """SIGTERM again and again until the process ends; its exit code."""

    def ended() -> bool:
        process.signal(signal.SIGTERM)
        return process.popen.poll() is not None

    wait_for("its end", ended)
    return process.end()


@dataclass
class Site:
    """A run directory, a port, and the processes started on them."""

    folder: Path
    run_name: str = "run"
    port: int = field(default_factory=free_port)
    processes: list[Process] = field(default_factory=list)
    run_file: Path = Path()

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return self.folder / self.run_name

    @property
    def address(self) -> str:
        """Where the master listens."""
        return f"tcp://127.0.0.1:{self.port}"

    def configure(self, **changes: Any) -> None:
        """Write the run file."""
        self.run_file = write_run_file(self.folder / "run.toml", **changes)

    def master(
        self, *arguments: str, run_dir: Path | None = None, env: Mapping[str, str] = NOTHING
    ) -> Process:
        """Start a master."""
        return self._start(
            "apbmm_master.cli", str(self.run_file), "--run-dir", str(run_dir or self.run_dir),
            "--bind", self.address, *arguments, env=env,
        )  # fmt: skip

    def worker(
        self,
        name: str,
        *,
        fault: str = "",
        locks: str = "locks",
        at: str = "",
        gpu: str = "rehearsal",
        env: Mapping[str, str] = NOTHING,
        within: Sequence[str] = (),
    ) -> Process:
        """Start a worker; ``fault`` as APBMM_REHEARSAL_FAULT, ``at`` another address.

        An evaluation that hangs is in progress for as long as a test takes, see `Process.go_on`.
        ``within``: a command that runs it, as `unshare` does.
        """
        return self._start(
            "apbmm_worker.cli", "--gpu", gpu, "--name", name, "--master",
            at or self.address, "--state", str(self.folder / "state" / locks / name),
            env={
                "APBMM_REHEARSAL_FAULT": fault, "APBMM_LOCK_DIR": str(self.folder / locks), **env,
            },
            within=within,
        )  # fmt: skip

    def _start(
        self, module: str, *arguments: str, env: Mapping[str, str], within: Sequence[str] = ()
    ) -> Process:
        log = self.folder / f"{len(self.processes)}-{module}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [*within, *SIGNALS_BY_DEFAULT, sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "COLUMNS": "200", **env},
            )
        self.processes.append(Process(popen, log))
        return self.processes[-1]

    def close(self) -> None:
        """Kill whatever still runs, children included."""
        for process in self.processes:
            for pid in [process.popen.pid, *process.children()]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            process.kill()

    def status(self) -> dict[str, Any]:
        """What the living master answers."""
        address = json.loads((self.run_dir / "status.json").read_text(encoding="utf-8"))["status"]
        asking: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
        try:
            asking.set(zmq.RCVTIMEO, round(1000 * DEADLINE))
            asking.connect(address)
            asking.send(b"status")
            answer: dict[str, Any] = json.loads(asking.recv())
            return answer
        finally:
            asking.close(linger=0)

    # ---- what the journal says -----------------------------------------------------------

    def records(self) -> list[Record]:
        """Everything committed so far; empty while there is no journal."""
        if not (self.run_dir / "journal.sqlite").is_file():
            return []
        return read_journal(self.run_dir)

    def run_state(self) -> RunState:
        """The run as the journal tells it."""
        return RunState().replay(self.records())

    def done(self) -> int:
        """Completed evaluations of the budget."""
        return len(self.run_state().completed)

    def running(self) -> list[str]:
        """Leases that a worker has accepted and not delivered."""
        return [a.lease for _, a in self.run_state().active_attempts() if a.state == "running"]

    def attempts(self) -> dict[str, int]:
        """How often each evaluation was leased."""
        counts: dict[str, int] = {}
        for event in self.events(Leased):
            counts[event.evaluation] = event.attempt
        return counts

    def events(self, kind: type[T]) -> list[T]:
        """Journaled events of one kind."""
        return [record.event for record in self.records() if isinstance(record.event, kind)]

    def assert_whole(self, evaluations: int) -> None:
        """The budget is complete, and every evaluation has exactly one result."""
        run_state = self.run_state()
        results = [event.evaluation for event in self.events(ResultRecorded)]
        assert sorted(results) == sorted(set(results))
        assert len(run_state.completed) == evaluations
        assert not run_state.failed, run_state.finished
        assert all(
            isinstance(run_state.evaluations[i].body, Evaluated) for i in run_state.completed
        )

    def assert_nothing_was_repeated(self) -> None:
        """No evaluation was leased twice."""
        assert set(self.attempts().values()) == {1}, (
            self.events(Lost) + self.events(AttemptFailed) + self.events(DuplicateResult)
        )


def site_in(folder: Path) -> Iterator[Site]:
    """A site that leaves no process behind."""
    site = Site(folder)
    try:
        yield site
    finally:
        site.close()
