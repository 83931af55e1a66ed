"""A real master in a process of its own, on a run that rehearses, for measurements of scale."""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from apbmm_common.protocol.curve_keys import NO_KEYS, new_master, new_worker
from apbmm_common.run_file import RunSpec, parse_run, run_as_toml
from apbmm_master.journal.events import Record
from apbmm_master.journal.storage.store import read_journal

LAYERS = 36
"""Of the paper's models."""
MASTER = (sys.executable, "-m", "apbmm_master.cli")
MEMORY = Path("/dev/shm")  # noqa: S108 - only a hint where temporary folders are fast
POLL_SECONDS = 0.05


def rehearsal(name: str, evaluations: int, initial: int, algorithm: dict[str, object]) -> RunSpec:
    """A run of invented measurements with the paper's number of layers."""
    table = {
        "name": name,
        "sources": {"thinking": "/none/thinking", "instruct": "/none/instruct"},
        "benchmarks": [{"name": "sums", "adapter": "sums", "path": "/none/sums"}],
        "generation": {"max_tokens": 64, "context": 128},
        "algorithm": algorithm,
        "budget": {"evaluations": evaluations, "initial": initial},
        "evaluation": {"kind": "rehearsal", "layers": LAYERS},
    }
    return parse_run(table, name)


@dataclass(frozen=True)
class Place:
    """Where one run and its workers keep what they have.

    ``disk`` is the master's; ``memory`` holds the workers' outboxes, for they would have disks of
    their own; ``keys`` is None without CURVE.
    """

    disk: Path
    memory: Path
    address: str
    keys: Path | None

    def records(self) -> list[Record]:
        """What the journal holds."""
        return read_journal(self.disk / "run")


@contextmanager
def place(workers: Sequence[str], *, curve: bool) -> Iterator[Place]:
    """Temporary folders, a free port and, with ``curve``, a key for each worker."""
    with (
        tempfile.TemporaryDirectory(prefix="apbmm-scale-") as disk,
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as memory,
        socket.socket() as probe,
    ):
        keys = Path(memory) / "keys" if curve else None
        if keys is not None:
            allowing = new_master(keys)
            for worker in workers:
                new_worker(allowing, worker)
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        yield Place(Path(disk), Path(memory), address, keys)


@asynccontextmanager
async def running(
    spec: RunSpec, where: Place, program: Sequence[str] = MASTER
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A master that listens; killed if it still runs at the end."""
    run_file, log, run_dir = where.disk / "run.toml", where.disk / "log", where.disk / "run"
    run_file.write_text(run_as_toml(spec), encoding="utf-8")
    keys = str(where.keys) if where.keys else NO_KEYS
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *program, str(run_file), "--run-dir", str(run_dir), "--bind", where.address,
            "--keys", keys, "--no-summary",
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        while not (run_dir / "status.json").exists():
            require_success(process.returncode, log)
            await asyncio.sleep(POLL_SECONDS)
        yield process
        require_success(await process.wait(), log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def require_success(code: int | None, log: Path) -> None:
    """End the benchmark with the master's own words if it has failed."""
    if code:
        raise SystemExit(f"the master failed ({code}):\n{log.read_text(encoding='utf-8')[-4000:]}")
