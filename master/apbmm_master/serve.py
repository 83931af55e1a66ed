"""A master with everything around it: journal, signals, status sockets, progress."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from apbmm_common.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, UsageError
from apbmm_common.runfile import RunSpec

from apbmm_master.journal import Journal
from apbmm_master.master import Master
from apbmm_master.progress import Progress
from apbmm_master.status import live_snapshot
from apbmm_master.status_socket import StatusSocket


def serve(spec: RunSpec, run_dir: Path, bind: str, status_bind: str | None) -> int:
    """Run or resume a search in ``run_dir``; returns the exit code.

    Raises `UsageError`, `JournalError` and `RunChangedError` before anything is changed.
    """
    with Journal(run_dir) as journal:
        return asyncio.run(_serve(journal, spec, run_dir, bind, status_bind))


async def _serve(
    journal: Journal, spec: RunSpec, run_dir: Path, bind: str, status_bind: str | None
) -> int:
    master = Master(journal, spec, bind)
    status = StatusSocket(run_dir, lambda: live_snapshot(master), status_bind)
    progress = Progress(master.ledger, run_dir)
    master.watchers += [status.publish, progress.watch]
    interrupted = _handle_signals(master)
    answering = asyncio.create_task(status.serve())
    try:
        with progress:
            end = await master.run()
    finally:
        answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering
        status.close()
    progress.conclude(master.ledger)
    if end is not None:
        return EXIT_FAILED if end.failed else EXIT_DONE
    return EXIT_INTERRUPTED if interrupted else EXIT_DONE


def _handle_signals(master: Master) -> list[int]:
    """First signal drains, the second cancels; returns a list that holds SIGINT once it came."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    interrupted: list[int] = []

    def stop(number: int) -> None:
        if number == signal.SIGINT:
            interrupted.append(number)
        if master.draining and task is not None:
            # Everything acknowledged is committed already.
            task.cancel()
        master.drain()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return interrupted


def require_private(*addresses: str | None) -> None:
    """Refuse addresses that other hosts can reach. Raises `UsageError`."""
    for address in addresses:
        if address is None or address.startswith("ipc://"):
            continue
        if not address.startswith("tcp://"):
            raise UsageError(f"{address}: not an address", "as in tcp://127.0.0.1:5711")
        host = address.removeprefix("tcp://").rsplit(":", 1)[0].strip("[]")
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise UsageError(
                f"{address} can be reached from other hosts, and connections are not authenticated",
                "bind to 127.0.0.1 and let workers come through an SSH tunnel, or say --insecure",
            )
