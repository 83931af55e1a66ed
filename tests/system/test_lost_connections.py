"""What a worker says of its connection to a master: an error only where somebody has to act."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from apbmm_common.protocol import curve_keys
from apbmm_common.protocol.codec import encode
from apbmm_common.protocol.messages import Bye
from apbmm_worker.daemon import master_link
from apbmm_worker.daemon.master_link import BROKEN_OFF
from fake_peers import FakeMaster, until, worker_socket
from free_ports import free_port

LOGGER = "apbmm_worker.daemon.master_link"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, LOGGER)
    return caplog


def lines(said: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(r.levelname, r.getMessage()) for r in said.records if r.name == LOGGER]


def local(port: int) -> str:
    return f"tcp://127.0.0.1:{port}"


@asynccontextmanager
async def closing_at_once(port: int, most: int = 0) -> AsyncIterator[list[int]]:
    """Closes every connection, and is gone after ``most`` of them; the list grows with each."""
    closed: list[int] = []

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closed.append(1)
        writer.close()
        if len(closed) == most:
            server.close()

    server = await asyncio.start_server(close, "127.0.0.1", port)
    try:
        yield closed
    finally:
        server.close()
        await server.wait_closed()


async def test_a_master_that_goes_away_and_comes_back_is_no_error(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one whose host still took a connection, or two, while it ended."""
    monkeypatch.setattr(master_link, "RETRY_SECONDS", (0.05, 0.1))
    port = free_port()
    away = ("INFO", f"the master at {local(port)} is away: waiting for it")
    back = ("INFO", f"the master at {local(port)} is back")
    async with worker_socket(local(port)) as worker:
        with closing(FakeMaster(port)) as master:
            hearing = asyncio.create_task(master.hear(Bye))
            while not hearing.done():
                await worker.send(encode(Bye()))
                await asyncio.sleep(0.05)
        await until("its end", lambda: lines(said) == [away])
        async with closing_at_once(port, BROKEN_OFF - 1) as closed:
            await until("its last breath", lambda: len(closed) == BROKEN_OFF - 1)
        with closing(FakeMaster(port)):
            await until("its return", lambda: len(lines(said)) > 1)
    assert lines(said) == [away, back]


@pytest.mark.parametrize(
    ("keyed", "reason", "hint"),
    [
        (False, "it closes every connection at once", "does it demand a key"),
        (True, "before it has proved who it is: another master, or one", "master.key to"),
    ],
)
async def test_who_closes_every_connection_is_named_once(
    said: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    keyed: bool,
    reason: str,
    hint: str,
) -> None:
    monkeypatch.setattr(master_link, "RETRY_SECONDS", (0.05, 0.1))
    port, keys = free_port(), None
    if keyed:
        master = curve_keys.new_master(tmp_path / "keys")
        curve_keys.new_worker(master, "a")
        keys = curve_keys.worker_keys(str(master.folder), "a")
    async with closing_at_once(port) as closed, worker_socket(local(port), keys):
        await until("more than enough", lambda: len(closed) > 2 * BROKEN_OFF)
    ((level, text),) = lines(said)
    assert level == "ERROR"
    assert reason in text
    assert hint in text


async def test_sockets_that_close_while_they_connect_stop_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libzmq's one I/O thread waits forever for a monitor that is gone before its socket."""
    monkeypatch.setattr(master_link, "RETRY_SECONDS", (0.001, 0.001))
    port = free_port()
    async with closing_at_once(port) as closed:
        for _ in range(60):
            seen = len(closed)
            async with worker_socket(local(port)):
                await until("a connection", lambda n=seen: len(closed) > n)  # type: ignore[misc]
