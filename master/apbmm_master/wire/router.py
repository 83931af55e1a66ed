"""The workers' socket: frames come in and are decoded or refused, messages go out."""

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
from apbmm_common.protocol.codec import MAX_BYTES, VersionMismatchError, decode, encode
from apbmm_common.protocol.messages import FROM_WORKER, Bye, FromMaster, FromWorker, Hello, Refuse
from apbmm_master.wire.authentication import WORKERS, Authenticator
from apbmm_master.wire.endings import Endings
from apbmm_master.wire.refusals import REMEMBERED, NotAllowedError

log = logging.getLogger(__name__)

INBOX_FRAMES = 256
"""Messages read ahead; beyond it they wait in the sockets, which take turns: whoever sends more
than is read delays himself."""
MAX_FRAME_BYTES = 4 * MAX_BYTES
"""Up to it a frame that is too long is refused, and counted, as any that is no message. Whoever
sends a longer one is cut off by libzmq (ZMQ_MAXMSGSIZE), and counted as `Endings` say."""
WAITING_MESSAGES = 250
"""Of one connection, in its socket: a gigabyte, were all frames that long."""
LINGER_MILLISECONDS = 2000
FAREWELL_SECONDS = 0.5
"""For workers to read the last messages: a connection that closes takes along what they have not
read (their sockets are set to ZMQ_IMMEDIATE). Should that happen, they keep their results."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message with the connection it came by, and the key that this proved ("" without keys)."""

    identity: bytes
    message: FromWorker
    key: str


class Wire:
    """A ROUTER that a task of its own reads ahead; ``nudge`` is called for every message."""

    def __init__(
        self, address: str, nudge: Callable[[], None], authenticator: Authenticator
    ) -> None:
        self.refusals = authenticator.refusals
        self._address = address
        self._nudge = nudge
        self._authenticator = authenticator
        self._inbox: asyncio.Queue[tuple[list[bytes], str]] = asyncio.Queue(INBOX_FRAMES)
        self._names: OrderedDict[bytes, str] = OrderedDict()

    @property
    def has_messages(self) -> bool:
        """Whether anything waits to be received."""
        return not self._inbox.empty()

    def open(self) -> None:
        """Listen. Raises `UsageError` when the address cannot be bound."""
        self._router, self._endings = open_router(self._address, self._authenticator)
        self._reader = asyncio.create_task(self._read())

    def check(self) -> None:
        """Raise what ended the reading: a master that hears nobody must not go on unnoticed."""
        if self._reader.done():
            self._reader.result()

    async def close(self) -> None:
        """Stop listening; what was sent leaves within `LINGER_MILLISECONDS`."""
        await asyncio.sleep(FAREWELL_SECONDS)
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        socket_monitor.close(self._router, LINGER_MILLISECONDS)

    async def _read(self) -> None:
        while True:
            frames = await self._router.recv_multipart(copy=False)
            key = str(frames[-1].get("User-Id")) if self._authenticator.keys else ""
            await self._inbox.put(([frame.bytes for frame in frames], key))
            self._nudge()

    async def receive(self) -> Received | None:
        """The next message; None for one that was refused, or if none waits."""
        if self._inbox.empty():
            return None
        (identity, *frames), key = self._inbox.get_nowait()
        name = ""
        try:
            name = self._authenticator.require_key(key)
            message = decode(frames, FROM_WORKER)
            self._authenticator.require_name(message, name)
        except WireError as error:
            await self.refuse(identity, error, name)
            return None
        if isinstance(message, Hello):
            self._remember(identity, message.worker)
        if isinstance(message, Bye):
            self._endings.expect(identity)
        return Received(identity, message, key)

    async def refuse(self, identity: bytes, error: WireError, name: str = "") -> None:
        """Count a refusal under the name of its worker, and tell whoever can make use of it."""
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
        """Only HELLO says a name; what is refused later shall have it as well."""
        self._names[identity] = name[:128]
        self._names.move_to_end(identity)
        if len(self._names) > REMEMBERED:
            self._names.popitem(last=False)

    async def send(self, identity: bytes, message: FromMaster) -> None:
        """Send if the peer is there and reads; whatever matters is sent again."""
        try:
            await self._router.send_multipart([identity, *encode(message)], flags=zmq.DONTWAIT)
        except zmq.ZMQError as error:
            log.info("a %s could not be sent: %s", message.type, error)


def flush() -> None:
    """Let what was sent leave before the process ends, for at most `LINGER_MILLISECONDS`.

    Without it the last acknowledgements and BYEs are lost with the process.
    """
    zmq.asyncio.Context.instance().destroy(linger=LINGER_MILLISECONDS)
    zmq.Context.instance().destroy(linger=LINGER_MILLISECONDS)


def open_router(address: str, authenticator: Authenticator) -> tuple[zmq.asyncio.Socket, Endings]:
    """The workers' socket with its endings. Raises `UsageError` when it cannot be bound."""
    router = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
    router.set(zmq.ROUTER_MANDATORY, 1)
    # A connection that claims the identity of another one gets no messages: nobody can take
    # another's route. Workers leave the choice to this socket, so that one whose connection broke
    # comes back at once, as a new connection.
    router.set(zmq.ROUTER_HANDOVER, 0)
    router.set(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    router.set(zmq.SNDHWM, 1000)
    router.set(zmq.RCVHWM, WAITING_MESSAGES)
    router.set(zmq.HEARTBEAT_IVL, 5000)
    router.set(zmq.HEARTBEAT_TIMEOUT, 20000)
    endings = authenticator.guard(router, WORKERS)
    try:
        router.bind(address)
    except zmq.ZMQError as error:
        socket_monitor.close(router, 0)
        raise UsageError(f"cannot listen on {address}: {error}", bind_hint(error)) from error
    return router, endings


def bind_hint(error: zmq.ZMQError, flag: str = "--bind") -> str:
    """What helps when an address cannot be bound."""
    match error.errno:
        case errno.EADDRINUSE:
            return f"is another master using the port? choose another {flag}"
        case errno.EADDRNOTAVAIL | errno.ENODEV:
            return f"{flag} needs an address of this host; tcp://0.0.0.0:PORT is all of them"
        case errno.EACCES:
            return f"this user may not use it: choose another {flag}"
        case _:
            return f"choose another {flag}"
