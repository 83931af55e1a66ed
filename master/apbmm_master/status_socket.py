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
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from apbmm_common import handshakes
from apbmm_common.errors import UsageError
from apbmm_master.door import STATUS, Door
from apbmm_master.events import Record
from apbmm_master.ledger import Ledger
from apbmm_master.status import is_rehearsal
from apbmm_master.wire import bind_hint

log = logging.getLogger(__name__)

FAREWELL_SECONDS = 2.0
"""Whoever watches asks at least this often; see `StatusSocket.farewell`."""
ADDRESS_FILE = "status.json"
LONGEST_IPC_PATH = 100
"""Unix sockets have 108 bytes for their path, ZeroMQ's prefix not counted."""


class StatusSocket:
    """Serves ``snapshot()`` and publishes records; ``tcp`` binds the requests to TCP as well."""

    def __init__(
        self,
        run_dir: Path,
        snapshot: Callable[[], dict[str, Any]],
        door: Door,
        tcp: str | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._folder = _socket_folder(run_dir)
        self._address_file = run_dir / ADDRESS_FILE
        self._requests = [_router()]
        self._asked_from_afar = -math.inf
        self._events: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        addresses = {
            "status": f"ipc://{self._folder}/status.sock",
            "events": f"ipc://{self._folder}/events.sock",
        }
        self._requests[0].bind(addresses["status"])
        self._events.bind(addresses["events"])
        if tcp:
            addresses["tcp"] = self._bind_tcp(tcp, door)
        self._address_file.write_text(json.dumps(addresses) + "\n", encoding="utf-8")

    def _bind_tcp(self, address: str, door: Door) -> str:
        # A socket of its own: on the run directory's one there are no keys.
        router = _router()
        self._requests.append(router)
        door.guard(router, STATUS)
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
        await asyncio.gather(*map(self._answer, self._requests))

    async def _answer(self, router: zmq.asyncio.Socket) -> None:
        while True:
            frames = await router.recv_multipart()
            if router is not self._requests[0]:
                self._asked_from_afar = time.monotonic()
            # REQ sends an empty delimiter frame, DEALER none.
            envelope, request = frames[:-1], frames[-1]
            answer = (
                self._snapshot()
                if request == b"status"
                else {"error": "unknown request", "hint": "the only request is: status"}
            )
            try:
                await router.send_multipart(
                    [*envelope, json.dumps(answer).encode()], flags=zmq.DONTWAIT
                )
            except zmq.ZMQError as error:
                log.info("a status request was not waited for: %s", error)

    async def farewell(self) -> None:
        """Go on answering a little, if somebody watches over TCP.

        In the run directory the journal tells how a run ended; elsewhere only the master can.
        """
        if time.monotonic() - self._asked_from_afar < FAREWELL_SECONDS:
            await asyncio.sleep(FAREWELL_SECONDS)

    def publish(self, record: Record, ledger: Ledger) -> None:
        """Publish one committed event: topic (the event's name), then JSON.

        ``rehearsal`` is true in every event of a rehearsal, as it is in its status.
        """
        body = {
            "run": ledger.run,
            "rehearsal": is_rehearsal(ledger),
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
        for router in self._requests:
            handshakes.close(router, 200)
        self._events.close(linger=200)
        self._address_file.unlink(missing_ok=True)


def _router() -> zmq.asyncio.Socket:
    router = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
    router.set(zmq.MAXMSGSIZE, 4096)
    return router


def _socket_folder(run_dir: Path) -> Path:
    folder = run_dir.resolve()
    if len(str(folder / "status.sock").encode()) <= LONGEST_IPC_PATH:
        return folder
    return Path(tempfile.mkdtemp(prefix="apbmm-"))
