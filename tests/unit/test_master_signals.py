"""The first signal drains, the second cancels, and later ones leave the closing alone."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from apbmm_master.journal import Journal
from apbmm_master.master import Master
from apbmm_master.serve import _handle_signals
from protocol_world import world_spec


async def come(number: int) -> None:
    """Send a signal to this process and let the loop handle it."""
    handled = asyncio.Event()
    signal.raise_signal(number)
    asyncio.get_running_loop().call_later(0.05, handled.set)
    await handled.wait()


async def test_only_the_second_signal_cancels(tmp_path: Path) -> None:
    told: list[object] = []
    with Journal(tmp_path) as journal:
        master = Master(journal, world_spec(), "tcp://127.0.0.1:*")

        async def served() -> str:
            stopped = _handle_signals(master, told.append)
            await come(signal.SIGTERM)
            assert (master.draining, stopped.at_once, len(told)) == (True, False, 1)
            try:
                await come(signal.SIGTERM)
            except asyncio.CancelledError:
                await come(signal.SIGTERM)
                return "closed"
            return "not cancelled"

        assert await asyncio.create_task(served()) == "closed"
