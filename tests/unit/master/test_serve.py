"""The surroundings of a master: its signals, and its limit of open files.

The first signal drains, the second cancels, and later ones do not disturb the closing.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from apbmm_master.journal.storage.store import Journal
from apbmm_master.master import Master
from apbmm_master.serve import _handle_signals
from protocol_world import world_spec

PROGRAM = """
import resource
from apbmm_master import serve
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
serve.allow_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "after"),
    [(256, 5000, "5000 5000"), (700, 700, "700 700")],
)
def test_the_limit_is_raised_as_far_as_it_may_be(soft: int, hard: int, after: str) -> None:
    program = PROGRAM.format(soft=soft, hard=hard)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == after


async def come(number: int) -> None:
    """Send a signal to this process and let the loop handle it."""
    handled = asyncio.Event()
    signal.raise_signal(number)
    asyncio.get_running_loop().call_later(0.05, handled.set)
    await handled.wait()


async def test_only_the_second_signal_cancels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr("apbmm_common.process.signals.SAME_REQUEST_SECONDS", 0.0)
    with Journal(tmp_path) as journal:
        master = Master(journal, world_spec(), "tcp://127.0.0.1:*")

        async def served() -> str:
            stops = _handle_signals(master, told.append)
            await come(signal.SIGTERM)
            assert (master.draining, stops.at_once, len(told)) == (True, False, 1)
            try:
                await come(signal.SIGTERM)
            except asyncio.CancelledError:
                await come(signal.SIGTERM)
                return "closed"
            return "not cancelled"

        assert await asyncio.create_task(served()) == "closed"
