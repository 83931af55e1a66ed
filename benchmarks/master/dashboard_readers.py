"""What it costs a master that ten readers watch its run in a browser: the share of a core.

    python -m benchmarks.master.dashboard_readers --seconds 30 --phases 3

A real `apbmm-master` serves workers that rehearse. Phases without a dashboard and phases with one
and its readers alternate, so that what else the machine does falls on both. A reader opens what a
page opens: the stream of the run, and the figures whenever they have changed. The master's time is
that of its process, without the search, which has a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import mean

from apbmm.dashboard.watched_runs import key_of
from apbmm_common.protocol.messages import Assign
from benchmarks.master.real_master import Place, place, rehearsal, running
from benchmarks.master.rehearsed_fleet import Fleet

ENOUGH = 100_000
"""Evaluations of a run that is stopped before its end."""
TICKS = os.sysconf("SC_CLK_TCK")
SETTLE_SECONDS = 5.0


def cpu_seconds(process: int) -> float:
    """Seconds of a core that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@asynccontextmanager
async def dashboard(where: Place, readers: int) -> AsyncIterator[list[int]]:
    """A dashboard with its readers; how often each of them was told of a change."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "apbmm.cli", "dashboard", str(where.disk / "run"),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    address = (await process.stderr.readline()).decode().split()[-1].rstrip("/")
    key, heard = key_of(where.disk / "run"), [0] * readers
    await asyncio.sleep(SETTLE_SECONDS)
    reading = [asyncio.create_task(read(address, key, heard, n)) for n in range(readers)]
    try:
        yield heard
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        process.terminate()
        await process.wait()


async def read(address: str, key: str, heard: list[int], number: int) -> None:
    """Read a run's stream as a page does, and its figures after each change."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**26)
    request = f"GET /stream?run={key} HTTP/1.1\r\nHost: {host}\r\n\r\n"
    writer.write(request.encode())
    drawing: asyncio.Task[None] | None = None
    try:
        while line := await reader.readline():
            if line.startswith(b"event: update"):
                heard[number] += 1
                if drawing is None or drawing.done():
                    drawing = asyncio.create_task(draw(f"{address}/runs/{key}/figures/overview"))
    finally:
        writer.close()
        if drawing is not None:
            drawing.cancel()


async def draw(url: str) -> None:
    """Fetch the figures, and rest as a page does."""
    await asyncio.to_thread(lambda: json.load(urllib.request.urlopen(url)))  # noqa: S310 - ours
    await asyncio.sleep(1.0)


async def measure(workers: int, seconds: float, phases: int, readers: int, each: float) -> None:
    """Print the master's share of a core in every phase."""
    spec = rehearsal("watched", ENOUGH, workers, {"name": "sobol"})
    with place((), curve=False) as where:
        async with running(spec, where) as master:
            over = asyncio.Event()
            fleet = Fleet(where.address, workers, where.memory, lambda _: each_of(_, each))
            serving = asyncio.create_task(fleet.serve(over.wait()))
            await asyncio.sleep(SETTLE_SECONDS)
            alone, watched = [], []
            for _ in range(phases):
                alone.append(await share(master.pid, seconds))
                print(f"alone: {alone[-1]:.2%} of a core", flush=True)
                async with dashboard(where, readers) as heard:
                    await asyncio.sleep(SETTLE_SECONDS)
                    before = list(heard)
                    watched.append(await share(master.pid, seconds))
                    told = mean(now - then for now, then in zip(heard, before, strict=True))
                print(f"{readers} readers: {watched[-1]:.2%}, {told:.0f} changes each", flush=True)
            more = mean(watched) - mean(alone)
            print(f"{readers} readers cost the master {more:.2%} of a core")
            master.terminate()
            await master.wait()
            over.set()
            await serving


def each_of(assign: Assign, seconds: float) -> float:
    """How long an evaluation takes: half to one and a half times ``seconds``."""
    return seconds * (0.5 + hash(assign.lease) % 1000 / 1000)


async def share(process: int, seconds: float) -> float:
    """The share of a core that a process uses over some seconds."""
    loop = asyncio.get_running_loop()
    before, began = cpu_seconds(process), loop.time()
    await asyncio.sleep(seconds)
    return (cpu_seconds(process) - before) / (loop.time() - began)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--each", type=float, default=8.0, help="seconds of an evaluation")
    parser.add_argument("--seconds", type=float, default=30.0, help="of a phase")
    parser.add_argument("--phases", type=int, default=3)
    parser.add_argument("--readers", type=int, default=10)
    given = parser.parse_args()
    asyncio.run(measure(given.workers, given.seconds, given.phases, given.readers, given.each))
