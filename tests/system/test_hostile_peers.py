"""A master on a real socket among peers that send what is no message, or no ZeroMQ at all."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq

from apbmm_master.master import Master
from apbmm_master.status.snapshot import live_snapshot
from apbmm_master.wire.router import MAX_FRAME_BYTES
from fake_peers import FakeWorker, master_in_process, send_too_long, until
from fault_accounts import SCALE, scaled
from hostile_frames import hostile
from protocol_world import world_spec

FRAMES = scaled(1_000_000, 4_000)
TOO_LONG = scaled(100, 3)
CONNECTIONS = scaled(5_000, 200)
REGISTERED_SECONDS = 1.0 if SCALE else 10.0
"""`make test` shares its processors with other tests."""
TIMINGS = {"beat": 0.2, "suspect": 20.0, "unreachable": 40.0, "resend": 0.5}


def spec() -> Any:
    return world_spec(timings=TIMINGS)


def refused(master: Master) -> int:
    """Frames that were no message, and those of another version."""
    return sum(int(wire(master)[f"refused_{kind}"]) for kind in ("frames", "versions"))


def wire(master: Master) -> dict[str, Any]:
    counts: dict[str, Any] = live_snapshot(master)["wire"]
    return counts


class Flood(threading.Thread):
    """A stranger that sends malformed frames as fast as it can: at least ``least``, until told.

    It stays connected until it may close, for what was not read by then would be lost.
    """

    def __init__(self, address: str, least: int) -> None:
        super().__init__(daemon=True)
        self.sent = 0
        self.enough, self.over, self.may_close = (threading.Event() for _ in range(3))
        self._address, self._least = address, least

    def run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.set(zmq.LINGER, 0)
            dealer.connect(self._address)
            self._send(dealer)
            self.over.set()
            self.may_close.wait()

    def _send(self, dealer: zmq.Socket[bytes]) -> None:
        for frames in hostile(sys.maxsize, seed=1):
            dealer.send_multipart(frames)
            self.sent += 1
            if self.sent >= self._least and self.enough.is_set():
                return


def all_counted(master: Master, flood: Flood) -> bool:
    """Whether nothing more will be sent, and each frame that was is counted as refused."""
    return flood.over.is_set() and refused(master) == flood.sent


def has_come_on(master: Master, flood: Flood, before: int) -> bool:
    return refused(master) > before or all_counted(master, flood)


async def seconds_to_register(master: Master, address: str, name: str) -> float:
    """From a fresh worker's first attempt to connect to its WELCOME."""
    began = time.monotonic()
    worker = FakeWorker(address, name)
    async with worker.at_work():
        await until(f"{name} to register", lambda: worker.sim.welcome)
        taken = time.monotonic() - began
    assert name in master.fleet.workers
    return taken


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_malformed_frames_are_counted_and_disturb_nobody(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with master_in_process(spec(), tmp_path) as (master, address, _):
        calm = await seconds_to_register(master, address, "calm")
        flood = Flood(address, FRAMES)
        flood.start()
        try:
            await until("the flood", lambda: wire(master)["refused_frames"] > 1000)
            # The best of three: what holds up one alone may be the machine.
            busy = min([await seconds_to_register(master, address, f"busy-{n}") for n in range(3)])
            for _ in range(TOO_LONG):
                await asyncio.to_thread(send_too_long, address, MAX_FRAME_BYTES + 1)
            flood.enough.set()
            while not all_counted(master, flood):
                await until(
                    "further refusals",
                    partial(has_come_on, master, flood, refused(master)),
                )
        finally:
            flood.enough.set()
            flood.may_close.set()
            await asyncio.to_thread(flood.join)
        assert wire(master)["last_refusal"]
        assert sorted(master.fleet.workers) == ["busy-0", "busy-1", "busy-2", "calm"]
        record_property(
            "figures",
            f"{flood.sent} malformed frames, each counted, and {TOO_LONG} over "
            f"{MAX_FRAME_BYTES >> 20} MiB, each cut off; a fresh worker registers among them in "
            f"{busy:.2f} s ({calm:.2f} s without)",
        )
        # On a machine that is slow without a flood as well, the flood alone is not to blame.
        assert busy < max(REGISTERED_SECONDS, 10 * calm)


async def test_what_is_not_zeromq_is_counted_and_disturbs_nobody(tmp_path: Path) -> None:
    dice = random.Random(2)
    greetings = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 100,
        b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(60),
        b"SSH-2.0-OpenSSH_9.2\r\n" + bytes(80),
        b"\x16\x03\x01" + bytes(100),
    ]
    async with master_in_process(spec(), tmp_path) as (master, address, _):
        await seconds_to_register(master, address, "first")
        host, _, port = address.removeprefix("tcp://").partition(":")

        def knock(greeting: bytes) -> None:
            with socket.create_connection((host, int(port))) as connection:
                connection.settimeout(0.05)
                with contextlib.suppress(OSError):
                    connection.sendall(greeting)
                    connection.recv(100)

        for number in range(CONNECTIONS):
            greeting = dice.choice(greetings) if number % 2 else dice.randbytes(200)
            await asyncio.to_thread(knock, greeting)
        await until("a refusal", lambda: wire(master)["refused_connections"])
        await seconds_to_register(master, address, "fresh")
        assert sorted(master.fleet.workers) == ["first", "fresh"]


async def test_a_refusal_names_its_worker(tmp_path: Path) -> None:
    async with master_in_process(spec(), tmp_path) as (master, address, _):
        worker = FakeWorker(address, "gpu-1")
        async with worker.at_work():
            await until("the worker", lambda: worker.sim.welcome)
            identity = master.fleet.workers["gpu-1"].identity
            master.router._inbox.put_nowait(([identity, b"no header", b""], ""))
            await until("the refusal", lambda: wire(master)["refused_frames"])
            expected = "worker 'gpu-1': the first frame is not a protocol header"
            assert wire(master)["last_refusal"] == expected
