"""The status sockets: one answers `status` with a JSON snapshot, one publishes events.

Both are read-only and separate from the workers' socket. They live on ipc in the run directory;
their addresses are in `status.json` there. Requests are answered on TCP as well when asked for,
with keys to those who may come in.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable
from itertools import starmap
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from apbmm_common.errors import UsageError
from apbmm_common.protocol import socket_monitor
from apbmm_master.journal.events import Record
from apbmm_master.journal.run_state import RunState
from apbmm_master.status.snapshot import is_rehearsal
from apbmm_master.wire.authentication import STATUS, Authenticator
from apbmm_master.wire.endings import Endings
from apbmm_master.wire.refusals import NotAllowedError
from apbmm_master.wire.router import bind_hint

log = logging.getLogger(__name__)

FRESH_SECONDS = 0.2
"""Whoever asks again within this time gets the same snapshot."""
SNAPSHOT_SHARE = 0.1
"""Of the master's time at most, that snapshots take where they take long."""
PAUSE_SECONDS = 0.001
"""After each answer: however many ask, the run has the loop for most of the time."""
FAREWELL_SECONDS = 2.0
"""Whoever watches asks at least this often; see `StatusSocket.farewell`."""
MAX_REQUEST_BYTES = 4096
"""Whoever sends more is cut off by libzmq, and counted if it had not asked before."""
ADDRESS_FILE = "status.json"
LONGEST_IPC_PATH = 100
"""Unix sockets have 108 bytes for their path, ZeroMQ's prefix not counted."""


class StatusSocket:
    """Serves ``snapshot()`` and publishes records; ``tcp`` binds the requests to TCP as well."""

    def __init__(
        self,
        run_dir: Path,
        snapshot: Callable[[], dict[str, Any]],
        authenticator: Authenticator,
        tcp: str | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._answer_kept = b""
        self._keep_until = -math.inf
        self._folder = _socket_folder(run_dir)
        self._address_file = run_dir / ADDRESS_FILE
        self._authenticator = authenticator
        local = _router()
        self._requests = [(local, authenticator.watch(local, probed=True))]
        self._asked_from_afar = -math.inf
        self._events: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        addresses = {
            "status": f"ipc://{self._folder}/status.sock",
            "events": f"ipc://{self._folder}/events.sock",
        }
        local.bind(addresses["status"])
        self._events.bind(addresses["events"])
        if tcp:
            addresses["tcp"] = self._bind_tcp(tcp)
        self._address_file.write_text(json.dumps(addresses) + "\n", encoding="utf-8")

    def _bind_tcp(self, address: str) -> str:
        # A socket of its own: on the run directory's one there are no keys.
        router = _router()
        self._requests.append((router, self._authenticator.guard(router, STATUS)))
        try:
            router.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise UsageError(
                f"cannot serve status on {address}: {error}", bind_hint(error, "--status-bind")
            ) from error
        return router.get_string(zmq.LAST_ENDPOINT)

    async def serve(self) -> None:
        """Answer requests until cancelled; anything but `status` gets an error object."""
        await asyncio.gather(*starmap(self._serve, self._requests))

    async def _serve(self, router: zmq.asyncio.Socket, endings: Endings) -> None:
        while True:
            frames = await router.recv_multipart(copy=False)
            # REQ sends an empty delimiter frame, DEALER none.
            envelope, request = [frame.bytes for frame in frames[:-1]], frames[-1]
            endings.expect(envelope[0])  # whoever has asked owes no goodbye
            afar = router is not self._requests[0][0]
            answer = self._answer_afar(request) if afar else self._answer(request.bytes)
            try:
                await router.send_multipart([*envelope, answer], flags=zmq.DONTWAIT)
            except zmq.ZMQError as error:
                log.info("a status request was not waited for: %s", error)
            # To receive from a socket that has more does not give the loop its turn.
            await asyncio.sleep(PAUSE_SECONDS)

    def _answer_afar(self, request: zmq.Frame) -> bytes:
        """Over TCP only to whom the allow-list lets in now, as the workers' messages are taken."""
        if self._authenticator.keys is not None:
            try:
                self._authenticator.require_reader(str(request.get("User-Id")))
            except NotAllowedError as error:
                self._authenticator.refusals.note("keys", error.message, error.hint)
                return _error(error.message, error.hint)
        self._asked_from_afar = time.monotonic()
        return self._answer(request.bytes)

    def _answer(self, request: bytes) -> bytes:
        if request != b"status":
            return _error("unknown request", "the only request is: status")
        began = time.monotonic()
        if began >= self._keep_until:
            self._answer_kept = json.dumps(self._snapshot()).encode()
            ended = time.monotonic()
            self._keep_until = ended + max(FRESH_SECONDS, (ended - began) / SNAPSHOT_SHARE)
        return self._answer_kept

    async def farewell(self) -> None:
        """Go on answering a little, if somebody watches over TCP.

        In the run directory the journal tells how a run ended; elsewhere only the master can.
        """
        self._keep_until = -math.inf  # what it says of the run is no longer true
        if time.monotonic() - self._asked_from_afar < FAREWELL_SECONDS:
            await asyncio.sleep(FAREWELL_SECONDS)

    def publish(self, record: Record, run_state: RunState) -> None:
        """Publish one committed event: topic (the event's name), then JSON.

        ``rehearsal`` is true in every event of a rehearsal, as it is in its status.
        """
        body = {
            "run": run_state.run,
            "rehearsal": is_rehearsal(run_state),
            "seq": record.seq,
            "time": record.time,
            **record.event.model_dump(mode="json"),
        }
        try:
            self._events.send_multipart(
                [record.event.event.encode(), json.dumps(body).encode()], flags=zmq.DONTWAIT
            )
        except zmq.Again:
            log.info("a follower of events is too slow; it misses some")

    def close(self) -> None:
        """Close the sockets and remove the address file."""
        for router, _ in self._requests:
            socket_monitor.close(router, 200)
        self._events.close(linger=200)
        self._address_file.unlink(missing_ok=True)


def _router() -> zmq.asyncio.Socket:
    router = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
    router.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
    return router


def _error(reason: str, hint: str) -> bytes:
    return json.dumps({"error": reason, "hint": hint}).encode()


def _socket_folder(run_dir: Path) -> Path:
    folder = run_dir.resolve()
    if len(str(folder / "status.sock").encode()) <= LONGEST_IPC_PATH:
        return folder
    return Path(tempfile.mkdtemp(prefix="apbmm-"))
