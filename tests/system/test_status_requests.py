"""Questions about the status: however many, the run goes on; only who may ask gets an answer."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from apbmm.status.query import Target
from apbmm_common.protocol import curve_keys
from apbmm_common.protocol.status_requests import RequestFailedError, ask
from apbmm_master.status import sockets
from apbmm_master.status.snapshot import live_snapshot
from apbmm_master.status.sockets import StatusSocket
from apbmm_master.wire.authentication import Authenticator
from commands import DEADLINE
from fake_peers import FakeWorker, master_in_process, until
from free_ports import free_port
from protocol_world import world_spec

FLOOD = 1000
TIMINGS = {"beat": 0.2, "suspect": 20.0, "unreachable": 40.0, "resend": 0.5}


class Flood(threading.Thread):
    """Asks for the status as fast as it can, until told."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.enough, self.sent = threading.Event(), 0
        self._address = address

    def run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.set(zmq.LINGER, 0)
            dealer.set(zmq.SNDTIMEO, 20)
            dealer.connect(self._address)
            while not self.enough.is_set():
                try:
                    dealer.send(b"status")
                    self.sent += 1
                except zmq.Again:  # the master takes its time
                    continue


async def test_a_flood_of_requests_does_not_hold_up_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apbmm_common.protocol.status_requests.ANSWER_SECONDS", DEADLINE)
    spec: Any = world_spec(timings=TIMINGS)
    async with master_in_process(spec, tmp_path) as (master, address, _):
        status = StatusSocket(tmp_path, lambda: live_snapshot(master), master.authenticator)
        answering = asyncio.create_task(status.serve())
        local = json.loads((tmp_path / "status.json").read_text())["status"]
        flood = Flood(local)
        try:
            flood.start()
            await until("the flood", lambda: flood.sent > FLOOD)
            async with FakeWorker(address, "a").at_work():
                await until("the references", lambda: master.run_state.references_done)
            snapshot = await asyncio.to_thread(ask, local)
            assert snapshot["run"] == master.run_state.run
            assert flood.is_alive()
        finally:
            flood.enough.set()
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            status.close()
            await asyncio.to_thread(flood.join)


async def test_who_asks_soon_after_another_gets_the_same_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "FRESH_SECONDS", 600.0)
    authenticator, taken = Authenticator(), itertools.count()
    status = StatusSocket(tmp_path, lambda: {"snapshot": next(taken)}, authenticator)
    answering = asyncio.create_task(status.serve())
    local = json.loads((tmp_path / "status.json").read_text())["status"]
    try:
        for _ in range(3):
            assert await asyncio.to_thread(ask, local) == {"snapshot": 0}
        await status.farewell()  # the end is told to whoever asks from here on
        assert await asyncio.to_thread(ask, local) == {"snapshot": 1}
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        status.close()


async def test_an_answer_that_cannot_be_made_ends_no_later_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its traceback is logged once for each time that it begins to fail."""
    memory_is_left = False

    def snapshot() -> dict[str, Any]:
        if not memory_is_left:
            raise MemoryError
        return {"run": "r"}

    monkeypatch.setattr(sockets, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(sockets, "SNAPSHOT_SHARE", math.inf)
    status = StatusSocket(tmp_path, snapshot, Authenticator())
    answering = asyncio.create_task(status.serve())
    local = json.loads((tmp_path / "status.json").read_text())["status"]
    try:
        for times in (1, 2):
            memory_is_left = False
            for _ in range(2):
                with pytest.raises(
                    RequestFailedError, match="the master could not answer: MemoryError"
                ):
                    await asyncio.to_thread(Target(tmp_path).snapshot)
                assert "time" in await asyncio.to_thread(ask, local, request=b"time")
            memory_is_left = True
            assert await asyncio.to_thread(ask, local) == {"run": "r"}
            told = [each for each in caplog.records if each.exc_info]
            messages = ["a status request could not be answered"] * times
            assert [each.message for each in told] == messages
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        status.close()


async def answer_of(asker: zmq.asyncio.Socket) -> dict[str, Any]:
    await asker.send(b"status")
    *_, answer = await asyncio.wait_for(asker.recv_multipart(), DEADLINE)
    told: dict[str, Any] = json.loads(answer)
    return told


async def test_revoking_cuts_off_who_asks_for_the_status(tmp_path: Path) -> None:
    """Its connection lives on: every question of it is judged by what the folder says then."""
    keys = curve_keys.new_master(tmp_path / "keys")
    curve_keys.new_worker(keys, "a")
    folder = str(keys.folder)
    a, own = curve_keys.worker_keys(folder, "a"), curve_keys.reader_keys(folder)
    assert a is not None
    assert own is not None
    authenticator = Authenticator(keys)
    authenticator.open()
    address = f"tcp://127.0.0.1:{free_port()}"
    status = StatusSocket(tmp_path, lambda: {"run": "r"}, authenticator, address)
    answering = asyncio.create_task(status.serve())
    context = zmq.asyncio.Context.instance()
    try:
        with context.socket(zmq.DEALER) as revoked, context.socket(zmq.DEALER) as other:
            for asker, key in ((revoked, a), (other, own)):
                asker.set(zmq.LINGER, 0)
                key.secure(asker)
                asker.connect(address)
                assert await answer_of(asker) == {"run": "r"}
            curve_keys.revoke(keys, "a")
            refusal = await answer_of(revoked)
            assert refusal["error"] == "the key of worker a was revoked"
            assert "apbmm keys new-worker a" in refusal["hint"]
            assert authenticator.refusals.counts == {"keys": 1}
            assert await answer_of(other) == {"run": "r"}
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        status.close()
        await authenticator.close()
