"""The workers' socket: decodes or refuses the frames that come in, and sends messages."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import zmq
import zmq.asyncio

from apbmm_common.errors import UsageError, WireError
from apbmm_common.protocol import socket_monitor
from apbmm_common.protocol.addresses import allow_ipv6
from apbmm_common.protocol.codec import MAX_BYTES, VersionMismatchError, decode, encode
from apbmm_common.protocol.messages import FROM_WORKER, FromMaster, FromWorker, Hello, Refuse
from apbmm_master.wire.authentication import WORKERS, Authenticator
from apbmm_master.wire.refusals import REMEMBERED, NotAllowedError

log = logging.getLogger(__name__)

INBOX_FRAMES = 256
"""Messages read ahead. Further ones wait in libzmq's queues, one for each connection. libzmq reads
these queues in turn, so a worker that sends too much delays only itself."""
MAX_FRAME_BYTES = 4 * MAX_BYTES
"""A frame over `MAX_BYTES` is refused and counted, like any other frame that is not a message. For
a frame over this limit libzmq closes the connection (ZMQ_MAXMSGSIZE). The master hears of it only
as of any connection that ends, so such frames are not counted."""
WAITING_MESSAGES = 250
"""Length of one connection's queue: at most a gigabyte, if all frames have the greatest length."""
LINGER_MILLISECONDS = 2000
FAREWELL_SECONDS = 0.5
"""Time for workers to read the last messages before the socket closes. Closing a connection
discards what the worker has not read, because workers set ZMQ_IMMEDIATE. A worker that misses a
RESULT_ACK keeps its result, so nothing is lost."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message, its connection, and the public key that this proved ("" without keys)."""

    identity: bytes
    message: FromWorker
    public_key: str


class Router:
    """A ROUTER socket with a task that reads ahead and calls ``wake_up`` for every message."""

    def __init__(
        self, address: str, wake_up: Callable[[], None], authenticator: Authenticator
    ) -> None:
        self.refusals = authenticator.refusals
        self._address = address
        self._wake_up = wake_up
        self._authenticator = authenticator
        self._inbox: asyncio.Queue[tuple[list[bytes], str]] = asyncio.Queue(INBOX_FRAMES)
        self._names: OrderedDict[bytes, str] = OrderedDict()

    @property
    def has_messages(self) -> bool:
        """Whether `receive` would find a message."""
        return not self._inbox.empty()

    def open(self) -> None:
        """Listen. Raises `UsageError` when the address cannot be bound."""
        self._socket = _open_socket(self._address, self._authenticator)
        self._reader = asyncio.create_task(self._read())

    def check(self) -> None:
        """Raise the error that ended the reading task, so that the master does not go on deaf."""
        if self._reader.done():
            self._reader.result()

    async def close(self) -> None:
        """Stop listening. Sent messages have `LINGER_MILLISECONDS` to leave."""
        await asyncio.sleep(FAREWELL_SECONDS)
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        socket_monitor.close(self._socket, LINGER_MILLISECONDS)

    async def _read(self) -> None:
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            public_key = str(frames[-1].get("User-Id")) if self._authenticator.keys else ""
            await self._inbox.put(([frame.bytes for frame in frames], public_key))
            self._wake_up()

    async def receive(self) -> Received | None:
        """The next message; None if it was refused or if there is none."""
        if self._inbox.empty():
            return None
        (identity, *frames), public_key = self._inbox.get_nowait()
        name = ""
        try:
            name = self._authenticator.require_key(public_key)
            message = decode(frames, FROM_WORKER)
            self._authenticator.require_name(message, name)
        except WireError as error:
            await self.refuse(identity, error, name)
            return None
        if isinstance(message, Hello):
            self._remember(identity, message.worker)
        return Received(identity, message, public_key)

    async def refuse(self, identity: bytes, error: WireError, name: str = "") -> None:
        """Count a refusal with its worker's name. Answer REFUSE where the sender can act on it."""
        known = name or self._names.get(identity, "")
        match error:
            case NotAllowedError():
                self.refusals.note("keys", error.message, error.hint)
            case VersionMismatchError():
                if error.worker:
                    self._remember(identity, error.worker)
                error = VersionMismatchError(error.theirs, error.worker or known)
                self.refusals.note("versions", error.message, error.hint)
            case _:
                sender = f"worker {known!r}: " if known else ""
                self.refusals.note("frames", sender + error.message)
                return
        await self.send(identity, Refuse(reason=error.message, hint=error.hint))

    def _remember(self, identity: bytes, name: str) -> None:
        """Keep a connection's worker name: only HELLO tells it, and later refusals quote it."""
        self._names[identity] = name[:128]
        self._names.move_to_end(identity)
        if len(self._names) > REMEMBERED:
            self._names.popitem(last=False)

    async def send(self, identity: bytes, message: FromMaster) -> None:
        """Send unless the worker is gone or does not read; important messages are sent again."""
        try:
            await self._socket.send_multipart([identity, *encode(message)], flags=zmq.DONTWAIT)
        except zmq.ZMQError as error:
            log.info("a %s could not be sent: %s", message.type, error)


def flush() -> None:
    """Wait at most `LINGER_MILLISECONDS` for sent messages to leave, before the process ends.

    Otherwise the last acknowledgements and BYEs are lost with the process.
    """
    zmq.asyncio.Context.instance().destroy(linger=LINGER_MILLISECONDS)
    zmq.Context.instance().destroy(linger=LINGER_MILLISECONDS)


def _open_socket(address: str, authenticator: Authenticator) -> zmq.asyncio.Socket:
    """The workers' socket, bound. Raises `UsageError` when it cannot be."""
    router = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
    router.set(zmq.ROUTER_MANDATORY, 1)
    # A second connection with the identity of a living one gets no messages, so nobody can divert
    # another worker's. Workers let this socket choose their identity: after a broken connection a
    # worker returns at once under a new one.
    router.set(zmq.ROUTER_HANDOVER, 0)
    router.set(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    router.set(zmq.SNDHWM, 1000)
    router.set(zmq.RCVHWM, WAITING_MESSAGES)
    router.set(zmq.HEARTBEAT_IVL, 5000)
    router.set(zmq.HEARTBEAT_TIMEOUT, 20000)
    authenticator.guard(router, WORKERS)
    allow_ipv6(router, address)
    try:
        router.bind(address)
    except zmq.ZMQError as error:
        socket_monitor.close(router, 0)
        raise UsageError(f"cannot listen on {address}: {error}", bind_hint(error)) from error
    return router


def bind_hint(error: zmq.ZMQError, flag: str = "--bind") -> str:
    """The hint for an address that cannot be bound; ``flag`` is the option that gave it."""
    match error.errno:
        case errno.EADDRINUSE:
            return f"is another master using the port? choose another {flag}"
        case errno.EADDRNOTAVAIL | errno.ENODEV:
            everywhere = "tcp://0.0.0.0:PORT is all of them, tcp://[::]:PORT with IPv6"
            return f"{flag} needs an address of this host; {everywhere}"
        case errno.EACCES:
            return f"this user may not use it: choose another {flag}"
        case _:
            return f"choose another {flag}"
