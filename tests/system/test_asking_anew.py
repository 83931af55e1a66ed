"""What the search method's process is told: only what it has not seen, or everything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import pytest_asyncio

from apbmm_master.journal.state.evaluations import AskCall
from apbmm_master.optimiser.client import (
    OptimiserClient,
    history_of,
    pending_evaluations,
    search_arguments,
)
from apbmm_master.optimiser.process import AskReply, AskRequest, History, OptimiserSession
from protocol_world import Sim, World

pytestmark = pytest.mark.slow


class Watched(OptimiserClient):
    """Keeps what is submitted."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.submitted: list[AskRequest] = []
        submit = self._process._submit

        async def watched(request: AskRequest) -> AskReply:
            self.submitted.append(request)
            return await submit(request)

        self._process._submit = watched  # type: ignore[method-assign]

    async def one_more(self, world: World) -> AskRequest:
        """Ask for a vector and record it; what a session that knows nothing needs for the same."""
        run_state = world.run_state
        pending = tuple(e.vector for e in pending_evaluations(run_state))
        whole = AskRequest(search_arguments(run_state), history_of(run_state), pending, 1)
        self.submitted.clear()
        self.ask(run_state, 1)
        assert self._open is not None
        await self._open.task
        self.take_reply(run_state, world.record)
        asked = run_state.asks[-1]
        vectors = tuple(run_state.evaluations[name].vector for name in asked.evaluations)
        assert vectors == OptimiserSession().reply(whole).vectors
        assert len(vectors) == 1
        return whole

    def kill(self) -> None:
        for process in (self._process._pool._processes or {}).values():
            process.kill()


@pytest_asyncio.fixture
async def optimiser() -> AsyncIterator[Watched]:
    watched = Watched()
    yield watched
    await watched.close()


@pytest.fixture
def world() -> World:
    """A run that has measured its references and some vectors, and asks a simple method."""
    world = World(budget={"evaluations": 40, "initial": 3}, algorithm={"name": "sobol"})
    work(world, world.join("a"), 5)
    return world


def work(world: World, worker: Sim, evaluations: int) -> None:
    """Complete so many, the references included."""
    done = 0
    while done < evaluations:
        worker.beat()
        world.exchange()
        if worker.held is not None:
            worker.finish()
            done += 1
    world.exchange()


@contextmanager
def more_calls(world: World) -> Iterator[None]:
    before = len(world.run_state.calls)
    yield
    assert len(world.run_state.calls) > before


async def test_a_process_is_told_what_is_new(optimiser: Watched, world: World) -> None:
    first = await optimiser.one_more(world)
    assert [r.history for r in optimiser.submitted] == [first.history]
    for _ in range(2):
        seen = len(world.run_state.calls)
        with more_calls(world):
            work(world, world.alive[0], 1)
        whole = await optimiser.one_more(world)
        (told,) = optimiser.submitted
        assert (told.seen, told.history) == (seen, whole.history[seen:])


async def test_a_new_process_is_told_everything(optimiser: Watched, world: World) -> None:
    await optimiser.one_more(world)
    optimiser.kill()
    whole = await optimiser.one_more(world)
    assert optimiser.submitted[0].seen > 0
    assert (optimiser.submitted[-1].seen, optimiser.submitted[-1].history) == (0, whole.history)


async def test_and_so_is_one_whose_reply_was_dropped(optimiser: Watched, world: World) -> None:
    await optimiser.one_more(world)
    optimiser.ask(world.run_state, 1)
    assert optimiser._open is not None
    await optimiser._open.task
    optimiser.forget()
    whole = await optimiser.one_more(world)
    calls: list[History] = [request.history for request in optimiser.submitted]
    assert calls == [(), whole.history]
    assert isinstance(world.run_state.calls[-1], AskCall)
