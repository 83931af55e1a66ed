"""The process that proposes: what is left of it when its handle is closed."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from apbmm_master.optimiser.process import AskRequest, OptimiserProcess, SearchArguments

ARGUMENTS = SearchArguments(
    name="sobol",
    dimensions=3,
    objectives=2,
    seed=1,
    budget=4,
    initial=2,
    workers=1,
    reference_point=(-0.1, -0.1),
)


@pytest.mark.slow
@pytest.mark.parametrize("while_asked", [True, False])
async def test_a_closed_handle_leaves_no_process_and_no_thread(*, while_asked: bool) -> None:
    before = set(threading.enumerate())
    handle = OptimiserProcess()
    ask = asyncio.create_task(handle.ask(AskRequest(ARGUMENTS, (), (), 1), tuple))
    while not handle._pool._processes:
        await asyncio.sleep(0.01)
    if not while_asked:
        assert (await ask).vectors
    (process,) = handle._pool._processes.values()
    ask.cancel()
    handle.close()
    assert not process.is_alive()
    with contextlib.suppress(asyncio.CancelledError):
        await ask
    left = set(threading.enumerate()) - before
    assert [thread for thread in left if "asyncio" not in thread.name] == []
