"""One end of the wire in the test itself, on real sockets, for tests of the other end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import zmq
import zmq.asyncio

from apbmm_common.protocol.codec import decode, encode
from apbmm_common.protocol.curve_keys import ClientKeys, MasterKeys
from apbmm_common.protocol.messages import (
    FROM_MASTER,
    FROM_WORKER,
    Failed,
    FromMaster,
    FromWorker,
)
from apbmm_common.run_file import RunSpec
from apbmm_master.journal.storage.store import Journal
from apbmm_master.master import Master
from apbmm_master.scheduling.policy.decisions import FinishRun
from apbmm_master.wire.authentication import Authenticator
from apbmm_worker.daemon.master_link import MasterLink
from commands import DEADLINE
from free_ports import free_port
from protocol_world import Sim

M = TypeVar("M")
POLL_MILLISECONDS = 50


class FakeWorker:
    """A simulated worker on a real socket; ``work`` says how an evaluation ends (None: well)."""

    def __init__(
        self,
        address: str,
        name: str,
        work: Callable[[str], Failed | None] = lambda _: None,
        keys: ClientKeys | None = None,
    ) -> None:
        self.sim = Sim(name, secrets.token_hex(4), secrets.token_bytes(8))
        self.heard: list[FromMaster] = []
        self.version: int | None = None
        self.identity: bytes | None = None
        """Claimed for its connection, where an honest worker leaves the choice to the master."""
        self.repeats: random.Random | None = None
        """Where given, says everything up to ten times and in any order."""
        self._work, self._keys = work, keys
        self._address = address

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[FakeWorker]:
        """Join and obey until the end of the block."""
        task = asyncio.create_task(self._serve())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _serve(self) -> None:
        dealer = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        try:
            if self._keys is not None:
                self._keys.secure(dealer)
            if self.identity is not None:
                dealer.set(zmq.IDENTITY, self.identity)
            dealer.connect(self._address)
            self.sim.hello()
            while True:
                for message in self._said():
                    header, body = encode(message)
                    if self.version is not None:
                        header = header[:-1] + bytes([self.version])
                    await dealer.send_multipart([header, body])
                if not await dealer.poll(POLL_MILLISECONDS):
                    if self.version is None:
                        self.sim.beat()
                    continue
                self._hear(await dealer.recv_multipart())
        finally:
            dealer.close(linger=0)

    def _said(self) -> list[FromWorker]:
        said = list(self.sim.says)
        self.sim.says.clear()
        if self.repeats is not None:
            said = [message for message in said for _ in range(self.repeats.randint(1, 10))]
            self.repeats.shuffle(said)
        return said

    def _hear(self, frames: list[bytes]) -> None:
        message = decode(frames, FROM_MASTER)
        self.heard.append(message)
        self.sim.hear(message)
        if self.sim.held is not None:
            self.sim.finish(self._work(self.sim.held.evaluation))


@asynccontextmanager
async def worker_socket(address: str, keys: ClientKeys | None = None) -> AsyncIterator[MasterLink]:
    """A worker's own socket, no fake, with the task that says why it is not connected."""
    opened = MasterLink(address, keys)
    watching = asyncio.create_task(opened.watch())
    try:
        yield opened
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        opened.close()


def send_too_long(address: str, size: int, keys: ClientKeys | None = None) -> None:
    """Send a frame that is over a socket's limit, and see that the other end hangs up."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.set(zmq.LINGER, 0)
        dealer.set(zmq.RECONNECT_IVL, -1)
        if keys is not None:
            keys.secure(dealer)
        with dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as events:
            dealer.connect(address)
            dealer.send(b"x" * size)
            assert events.poll(int(DEADLINE * 1000)), "the frame was taken"
            dealer.disable_monitor()


class FakeMaster:
    """A ROUTER that says what a test tells it to."""

    def __init__(self, port: int) -> None:
        self._router = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        self._router.bind(f"tcp://127.0.0.1:{port}")
        self.identity = b""

    def close(self) -> None:
        """Go away without a word."""
        self._router.close(linger=0)

    async def hear(self, kind: type[M]) -> M:
        """The next message of one kind, whatever comes before it."""
        async with asyncio.timeout(DEADLINE):
            while True:
                self.identity, *frames = await self._router.recv_multipart()
                message: FromWorker = decode(frames, FROM_WORKER)
                if isinstance(message, kind):
                    return message

    async def say(self, message: FromMaster, version: int | None = None) -> None:
        """Send to the worker heard last."""
        header, body = encode(message)
        if version is not None:
            header = header[:-1] + bytes([version])
        await self._router.send_multipart([self.identity, header, body])


@asynccontextmanager
async def master_in_process(
    spec: RunSpec, run_dir: Path, keys: MasterKeys | None = None
) -> AsyncIterator[tuple[Master, str, asyncio.Task[FinishRun | None]]]:
    """A real master in this event loop: the master, its address, and its end."""
    address = f"tcp://127.0.0.1:{free_port()}"
    with Journal(run_dir) as journal:
        authenticator = Authenticator(keys)
        authenticator.open()
        master = Master(journal, spec, address, authenticator)
        task = asyncio.create_task(master.run())
        try:
            yield master, address, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await authenticator.close()


async def until(what: str, probe: Callable[[], object]) -> None:
    """Poll until ``probe`` gives something true."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not probe():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited {DEADLINE:g} s for {what}") from None
