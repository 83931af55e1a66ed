"""Connections to a master that end without a goodbye, or for a frame that is too long."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from apbmm.status.query import ask, local_address
from apbmm_common.protocol import curve_keys
from apbmm_common.protocol.codec import encode
from apbmm_common.protocol.curve_keys import ClientKeys, MasterKeys
from apbmm_common.protocol.messages import Bye
from apbmm_master.master import Master
from apbmm_master.status.snapshot import live_snapshot
from apbmm_master.status.sockets import MAX_REQUEST_BYTES, StatusSocket
from apbmm_master.wire.router import MAX_FRAME_BYTES
from apbmm_worker.daemon.master_link import MasterLink
from fake_peers import FakeWorker, master_in_process, send_too_long, until, worker_socket
from protocol_world import world_spec
from rehearsal_runs import DEADLINE, free_port

TIMINGS = {"beat": 0.2, "suspect": 20.0, "unreachable": 40.0, "resend": 0.5}


@pytest.fixture(params=["keys", "no keys"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> MasterKeys | None:
    return curve_keys.new_master(tmp_path / "keys") if request.param == "keys" else None


def key_of(keys: MasterKeys | None, name: str) -> ClientKeys | None:
    if keys is None:
        return None
    curve_keys.new_worker(keys, name)
    return curve_keys.worker_keys(str(keys.folder), name)


def spec() -> Any:
    return world_spec(timings=TIMINGS)


def counts(master: Master) -> tuple[int, int]:
    """Connections that ended, and how many of them status calls cut off."""
    return master.wire._endings.ended, live_snapshot(master)["wire"]["cut_off"]


async def register(master: Master, worker: MasterLink, fake: FakeWorker) -> None:
    """Say HELLO until the master knows the worker by a new connection."""
    fake.sim.hello()
    hello = encode(fake.sim.says[-1])
    before = known_as(master)
    async with asyncio.timeout(DEADLINE):
        while known_as(master) in {before, None}:
            await worker.send(hello)
            await asyncio.sleep(0.1)


def known_as(master: Master) -> bytes | None:
    """The identity of the connection that worker a was heard by last."""
    worker = master.fleet.workers.get("a")
    return worker.identity if worker else None


async def test_a_goodbye_is_told_from_a_link_that_is_lost(
    tmp_path: Path, keys: MasterKeys | None
) -> None:
    a = key_of(keys, "a")
    async with master_in_process(spec(), tmp_path, keys) as (master, address, _):
        for leaves in (True, False):
            async with worker_socket(address, a) as worker:
                await register(master, worker, FakeWorker(address, "a"))
                if leaves:
                    await worker.send(encode(Bye(run=master.run_state.run, reason="stopped")))
        await until("both ends", lambda: counts(master) == (2, 1))


async def test_a_worker_that_sends_too_much_is_counted_and_may_come_back(
    tmp_path: Path, keys: MasterKeys | None
) -> None:
    a = key_of(keys, "a")
    async with master_in_process(spec(), tmp_path, keys) as (master, address, _):
        fake = FakeWorker(address, "a")
        async with worker_socket(address, a) as worker:
            await register(master, worker, fake)
            assert counts(master) == (0, 0)
            await worker.send([b"x" * (MAX_FRAME_BYTES + 1)])
            await until("the count", lambda: counts(master) == (1, 1))
            await register(master, worker, fake)
            await asyncio.to_thread(send_too_long, address, MAX_FRAME_BYTES + 1, a)
            await until("the count", lambda: counts(master) == (2, 2))
        assert live_snapshot(master)["wire"]["refused_frames"] == 0


def say_too_much(address: str) -> None:
    """As a stranger without a key: a command that is too long within the handshake."""
    host, _, port = address.removeprefix("tcp://").partition(":")
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
    command = b"\x06" + (MAX_FRAME_BYTES + 1).to_bytes(8, "big")
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as connection:
        connection.sendall(greeting + command)
        while connection.recv(100):
            pass


async def test_a_stranger_that_sends_too_much_before_it_proves_a_key_is_counted(
    tmp_path: Path,
) -> None:
    keys = curve_keys.new_master(tmp_path / "keys")
    async with (
        master_in_process(spec(), tmp_path, keys) as (master, address, _),
        FakeWorker(address, "a", keys=key_of(keys, "a")).at_work(),
    ):
        await until("a worker", lambda: master.fleet.workers)
        await asyncio.to_thread(say_too_much, address)
        await until("the count", lambda: counts(master) == (1, 1))
        assert live_snapshot(master)["wire"]["refused_connections"] == 0
        await until("its work", lambda: master.run_state.references_done)


async def test_who_asks_for_the_status_owes_no_goodbye(
    tmp_path: Path, keys: MasterKeys | None
) -> None:
    a = key_of(keys, "a")
    afar = f"tcp://127.0.0.1:{free_port()}"
    async with master_in_process(spec(), tmp_path, keys) as (master, _, _task):
        status = StatusSocket(tmp_path, lambda: live_snapshot(master), master.authenticator, afar)
        answering = asyncio.create_task(status.serve())
        local = local_address(tmp_path)  # which tries the socket
        ended = [endings for _, endings in status._requests]
        try:
            for address, key in ((local, None), (afar, a)):
                assert (await asyncio.to_thread(ask, address, key))["run"] == master.run_state.run
                await asyncio.to_thread(send_too_long, address, MAX_REQUEST_BYTES + 1, key)
            await until("all ends", lambda: [each.ended for each in ended] == [2, 2])
            assert live_snapshot(master)["wire"]["cut_off"] == 2
            assert live_snapshot(master)["wire"]["refused_connections"] == 0
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            status.close()
