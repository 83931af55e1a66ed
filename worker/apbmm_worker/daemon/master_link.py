"""The worker's socket to its master, and the reasons why it is not connected."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import zmq
import zmq.asyncio

from apbmm_common.errors import UsageError
from apbmm_common.protocol import socket_monitor
from apbmm_common.protocol.addresses import needs_ipv6
from apbmm_common.protocol.codec import MAX_BYTES
from apbmm_common.protocol.curve_keys import ClientKeys

log = logging.getLogger(__name__)

LINGER_MILLISECONDS = 1000
RETRY_SECONDS = (1.0, 30.0)
"""First and longest pause after a handshake that failed."""
BROKEN_OFF = 3
"""After so many connections in a row that the other end closes before a word, the reason is told.
Fewer may come from a master that is starting or ending.
"""


def flush() -> None:
    """Wait until all messages have left the process, for at most `LINGER_MILLISECONDS`."""
    zmq.asyncio.Context.instance().destroy(linger=LINGER_MILLISECONDS)


class MasterLink:
    """The connection to a master, which may start later, end and start again.

    A master that refuses this worker's key is tried again, which libzmq would not do: the key may
    be allowed later.
    """

    def __init__(self, master: str, keys: ClientKeys | None = None) -> None:
        self._master = master
        self._keys = keys
        self._told: set[str] = set()
        self._connected = False
        self._was_away = False
        # The socket sets no identity: the master's socket gives each connection one that no other
        # connection can claim.
        self._socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        # Queue only on a living connection: stale HELLOs and beats must not pile up.
        self._socket.set(zmq.IMMEDIATE, 1)
        self._socket.set(zmq.MAXMSGSIZE, MAX_BYTES + 1024)
        self._socket.set(zmq.SNDHWM, 1000)
        self._socket.set(zmq.RECONNECT_IVL, 200)
        self._socket.set(zmq.RECONNECT_IVL_MAX, 30_000)
        self._socket.set(zmq.HEARTBEAT_IVL, 5000)
        self._socket.set(zmq.HEARTBEAT_TIMEOUT, 20_000)
        if keys is not None:
            keys.secure(self._socket)
        self._events = socket_monitor.monitor(self._socket)
        self._socket.set(zmq.IPV6, master.startswith("tcp://["))
        self._socket.connect(master)

    async def send(self, frames: Sequence[bytes]) -> None:
        """Send if there is a connection, else drop the message: those that matter are repeated."""
        with contextlib.suppress(zmq.Again):
            await self._socket.send_multipart(frames, flags=zmq.DONTWAIT)

    async def receive(self) -> list[bytes]:
        """The frames of the next message."""
        frames: list[bytes] = await self._socket.recv_multipart()
        return frames

    async def watch(self) -> None:
        """Say why there is no connection, once for each reason, and try again; until cancelled."""
        await self._look_up()
        pause = RETRY_SECONDS[0]
        broken_off = 0
        while True:
            event, value = await socket_monitor.next_event(self._events)
            if not event & socket_monitor.FAILURES:
                self._note(connected=event == zmq.EVENT_HANDSHAKE_SUCCEEDED)
                if self._connected:
                    pause = RETRY_SECONDS[0]
                    broken_off = 0
                continue
            closed = event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            broken_off = broken_off + 1 if closed else 0
            if not closed or broken_off >= BROKEN_OFF:
                self._tell(*self._why(event, value))
            # libzmq itself would try three times a second, or never again after a refusal.
            with contextlib.suppress(zmq.ZMQError):
                self._socket.disconnect(self._master)
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_SECONDS[1])
            self._socket.connect(self._master)

    async def _look_up(self) -> None:
        """Wait until the master's host name resolves, and say so while it does not."""
        while True:
            try:
                is_ipv6 = await asyncio.to_thread(needs_ipv6, self._master)
                break
            except UsageError as error:
                self._tell(error.message, error.hint)
            await asyncio.sleep(RETRY_SECONDS[1])
        if is_ipv6 and not self._socket.get(zmq.IPV6):
            with contextlib.suppress(zmq.ZMQError):
                self._socket.disconnect(self._master)
            self._socket.set(zmq.IPV6, 1)
            self._socket.connect(self._master)

    def _note(self, *, connected: bool) -> None:
        """Note that the connection has been made or lost, or that an attempt has ended."""
        if connected:
            self._told.clear()
            if self._was_away:
                log.info("the master at %s is back", self._master)
        elif self._connected:
            log.info("the master at %s is away: waiting for it", self._master)
        self._was_away = not connected and (self._connected or self._was_away)
        self._connected = connected

    def _tell(self, reason: str, hint: str) -> None:
        if reason not in self._told:
            log.error("not connected to %s: %s (hint: %s)", self._master, reason, hint)
        self._told.add(reason)

    def _why(self, event: zmq.Event, value: int) -> tuple[str, str]:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return (
                "the master does not allow this worker's key",
                "apbmm keys new-worker NAME on its host makes one that it allows; copy that here, "
                "and start this worker again",
            )
        if socket_monitor.is_mismatch(event, value):
            if self._keys is None:
                return (
                    "the master demands a key, and this worker has none",
                    "give it --keys, with a key that apbmm keys new-worker NAME made",
                )
            return (
                "the master has no keys, so it cannot prove who it is",
                "start it with --keys; this worker with --keys none only if nothing can go wrong",
            )
        if event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            return socket_monitor.name_of(event, value), "is that the address of an apbmm master?"
        if self._keys is None:
            return (
                "it closes every connection at once",
                "is that the address of an apbmm master, and does it demand a key (--keys)?",
            )
        return (
            "it closes every connection before it has proved who it is: another master, or one "
            "that was started without keys?",
            f"copy the master's master.key to {self._keys.folder} again, or start the master with "
            "--keys; its terminal says which",
        )

    def close(self) -> None:
        """Close the socket; sent messages have `LINGER_MILLISECONDS` to leave."""
        socket_monitor.close(self._socket, LINGER_MILLISECONDS)
        self._events.close(linger=0)
