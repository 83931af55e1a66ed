"""A TCP connection that can be cut: what is sent meanwhile arrives when it is mended, or never.

A cut holds bytes back as a cable that is pulled does: nobody is told, and TCP delivers later what
was not given up before. New connections need both directions.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Literal, Self

from free_ports import free_port

Direction = Literal["up", "down"]
POLL_SECONDS = 0.02


class FaultyLink:
    """Forwards from a port of its own (``address``) to ``target``; ``up`` is towards the target."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._cut: frozenset[Direction] = frozenset()
        self._open = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    @property
    def address(self) -> str:
        """Where to connect to."""
        return f"tcp://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._open.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def cut(self, *directions: Direction) -> None:
        """Let nothing through in these directions any more."""
        self._cut = frozenset(directions)

    def mend(self) -> None:
        """Let everything through again."""
        self._cut = frozenset()

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        self._open.set()
        await self._end.wait()
        server.close()

    async def _passes(self, *directions: Direction) -> None:
        while self._cut & {*directions}:
            await asyncio.sleep(POLL_SECONDS)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passes("up", "down")
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            back, forth = await asyncio.open_connection("127.0.0.1", self._target)
            with contextlib.closing(forth):
                up, down = self._pump(reader, forth, "up"), self._pump(back, writer, "down")
                await asyncio.gather(up, down)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._passes(direction)
                writer.write(data)
                await writer.drain()
        await self._passes(direction)
        writer.close()
