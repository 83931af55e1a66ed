"""The status sockets: one answers `status` with a JSON snapshot, one publishes committed events.

Both are read-only and apart from the workers' socket. They are Unix sockets in the run directory,
whose addresses are in its `status.json`. With ``--status-bind`` a TCP socket answers requests too;
it demands keys if the master has them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from apbmm_common.errors import UsageError
from apbmm_common.process.whole_files import write_whole
from apbmm_common.protocol import socket_monitor
from apbmm_common.protocol.addresses import allow_ipv6
from apbmm_master.journal.events import Record
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.status.event_pages import published
from apbmm_master.wire.authentication import STATUS, Authenticator
from apbmm_master.wire.refusals import NotAllowedError
from apbmm_master.wire.router import bind_hint

log = logging.getLogger(__name__)

FRESH_SECONDS = 0.2
"""Requests within this time of a snapshot are answered with the same one."""
SNAPSHOT_SHARE = 0.1
"""Largest share of the master's time that making snapshots may take."""
PAUSE_SECONDS = 0.001
"""Pause after each answer, so that many requests leave the event loop to the run."""
FAREWELL_SECONDS = 2.0
"""`apbmm status --watch` asks at least this often; see `StatusSocket.farewell`."""
MAX_REQUEST_BYTES = 4096
"""libzmq closes the connection of a longer request."""
REQUESTS = ("status", "present", "events N", "time")
ADDRESS_FILE = "status.json"
LONGEST_IPC_PATH = 100
"""Bytes. The path of a Unix socket has at most 108."""


class _KeptAnswer:
    """An answer that is made anew when it is asked for after a while."""

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self._make = make
        self._kept = b""
        self._until = -math.inf

    def get(self) -> bytes:
        """The answer as JSON."""
        began = time.monotonic()
        if began >= self._until:
            self._kept = json.dumps(self._make()).encode()
            ended = time.monotonic()
            self._until = ended + max(FRESH_SECONDS, (ended - began) / SNAPSHOT_SHARE)
        return self._kept

    def forget(self) -> None:
        """Make the next answer anew."""
        self._until = -math.inf


class StatusSocket:
    """Answers requests with ``snapshot()`` or ``present()``, and publishes records.

    ``events(after)`` has the committed events after a number, for readers on other hosts; it is
    called in a thread. ``tcp`` is a further address.
    """

    def __init__(
        self,
        run_dir: Path,
        snapshot: Callable[[], dict[str, Any]],
        authenticator: Authenticator,
        tcp: str | None = None,
        present: Callable[[], dict[str, Any]] = dict,
        events: Callable[[int], dict[str, Any]] = lambda _: {},
    ) -> None:
        self._events_after = events
        self._answers = {b"status": _KeptAnswer(snapshot), b"present": _KeptAnswer(present)}
        self._folder = _socket_folder(run_dir)
        self._address_file = run_dir / ADDRESS_FILE
        self._authenticator = authenticator
        self._local = _router()
        self._remote: zmq.asyncio.Socket | None = None
        self._remote_asked = -math.inf
        self._failing: dict[bytes, str] = {}
        """By kind of request: why its last answer could not be made, where it could not."""
        self._events: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        addresses = {
            "status": f"ipc://{self._folder}/status.sock",
            "events": f"ipc://{self._folder}/events.sock",
        }
        self._local.bind(addresses["status"])
        self._events.bind(addresses["events"])
        if tcp:
            addresses["tcp"] = self._bind_tcp(tcp)
        write_whole(self._address_file, f"{json.dumps(addresses)}\n".encode())

    def _bind_tcp(self, address: str) -> str:
        # Not the local socket: that one has no keys.
        self._remote = _router()
        self._authenticator.guard(self._remote, STATUS)
        allow_ipv6(self._remote, address)
        try:
            self._remote.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise UsageError(
                f"cannot serve status on {address}: {error}", bind_hint(error, "--status-bind")
            ) from error
        return self._remote.get_string(zmq.LAST_ENDPOINT)

    async def serve(self) -> None:
        """Answer requests until cancelled; an unknown request gets an error object.

        ``status`` is answered with the snapshot, ``present`` with the part of it that no event
        tells, ``events N`` with the events after number N, and ``time`` with the seconds since 1970
        by this host's clock.
        """
        serving = [self._serve(self._local, lambda request: self._answer(request.bytes))]
        if self._remote is not None:
            serving.append(self._serve(self._remote, self._answer_remote))
        await asyncio.gather(*serving)

    async def _serve(
        self, router: zmq.asyncio.Socket, answer: Callable[[zmq.Frame], Awaitable[bytes]]
    ) -> None:
        while True:
            *envelope, request = await router.recv_multipart(copy=False)
            # A REQ socket puts an empty delimiter frame into the envelope, a DEALER none.
            reply = [*(frame.bytes for frame in envelope), await self._answered(answer, request)]
            try:
                await router.send_multipart(reply, flags=zmq.DONTWAIT)
            except zmq.ZMQError as error:
                log.info("the sender of a status request has gone: %s", error)
            # Receiving from a socket that has more messages does not yield to the event loop.
            await asyncio.sleep(PAUSE_SECONDS)

    async def _answered(
        self, answer: Callable[[zmq.Frame], Awaitable[bytes]], request: zmq.Frame
    ) -> bytes:
        """The answer; an error object where making it fails, which later requests may not do."""
        kind = request.bytes.partition(b" ")[0]
        try:
            made = await answer(request)
        except Exception as error:
            message = f"the master could not answer: {str(error) or type(error).__name__}"
            if message != self._failing.get(kind):  # readers ask again and again
                log.exception("a status request could not be answered")
            self._failing[kind] = message
            return _error(message, "the run goes on; the master's log has the traceback")
        self._failing.pop(kind, None)
        return made

    async def _answer_remote(self, request: zmq.Frame) -> bytes:
        """The answer over TCP, if the allow-list has the sender's key now."""
        if self._authenticator.keys is not None:
            try:
                self._authenticator.require_reader(str(request.get("User-Id")))
            except NotAllowedError as error:
                self._authenticator.refusals.note("keys", error.message, error.hint)
                return _error(error.message, error.hint)
        self._remote_asked = time.monotonic()
        return await self._answer(request.bytes)

    async def _answer(self, request: bytes) -> bytes:
        if request == b"time":
            return json.dumps({"time": time.time()}).encode()
        name, _, after = request.partition(b" ")
        if name == b"events" and after.isdigit():
            found = await asyncio.to_thread(self._events_after, int(after))
            return json.dumps(found).encode()
        if request not in self._answers:
            return _error("unknown request", f"the requests are: {', '.join(REQUESTS)}")
        return self._answers[request].get()

    async def farewell(self) -> None:
        """Answer for `FAREWELL_SECONDS` longer if a reader watches over TCP.

        Only the master can tell that reader how the run ended; a local one reads the journal.
        """
        for answer in self._answers.values():
            answer.forget()  # it is older than the end
        if time.monotonic() - self._remote_asked < FAREWELL_SECONDS:
            await asyncio.sleep(FAREWELL_SECONDS)

    def publish(self, record: Record, run_state: RunState) -> None:
        """Publish one committed event: topic (the event's name), then JSON.

        As in the status, ``rehearsal`` is true if the run's measurements are invented.
        """
        body = json.dumps(published(record, run_state)).encode()
        try:
            self._events.send_multipart([record.event.event.encode(), body], flags=zmq.DONTWAIT)
        except zmq.Again:
            log.info("a subscriber is too slow and misses events")

    def close(self) -> None:
        """Close the sockets and remove the address file."""
        self._local.close(linger=200)
        if self._remote is not None:
            socket_monitor.close(self._remote, 200)
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
