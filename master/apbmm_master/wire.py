"""The workers' socket: frames come in and are decoded or refused, messages go out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import zmq
import zmq.asyncio

from apbmm_common.codec import MAX_BYTES, VersionMismatchError, decode, encode
from apbmm_common.errors import UsageError, WireError
from apbmm_common.messages import FROM_WORKER, FromMaster, FromWorker, Refuse

log = logging.getLogger(__name__)

INBOX_FRAMES = 1024
"""Messages read ahead; beyond it they wait in the sockets."""
LINGER_MILLISECONDS = 2000
FAREWELL_SECONDS = 0.5
"""For workers to read the last messages: a connection that closes takes along what they have not
read (their sockets are set to ZMQ_IMMEDIATE). Should that happen, they keep their results."""


class Wire:
    """A ROUTER that a task of its own reads ahead; ``nudge`` is called for every message.

    ``refused_frames``, ``refused_versions`` and ``last_refusal`` are shown in status.
    """

    def __init__(self, address: str, nudge: Callable[[], None]) -> None:
        self.refused_frames = 0
        self.refused_versions = 0
        self.last_refusal = ""
        self._address = address
        self._nudge = nudge
        self._inbox: asyncio.Queue[list[bytes]] = asyncio.Queue(INBOX_FRAMES)

    @property
    def has_messages(self) -> bool:
        """Whether anything waits to be received."""
        return not self._inbox.empty()

    def open(self) -> None:
        """Listen. Raises `UsageError` when the address cannot be bound."""
        self._router = open_router(self._address)
        self._reader = asyncio.create_task(self._read())

    async def close(self) -> None:
        """Stop listening; what was sent leaves within `LINGER_MILLISECONDS`."""
        await asyncio.sleep(FAREWELL_SECONDS)
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        self._router.close(linger=LINGER_MILLISECONDS)

    async def _read(self) -> None:
        while True:
            frames = await self._router.recv_multipart()
            await self._inbox.put(frames)
            self._nudge()

    async def receive(self) -> tuple[bytes, FromWorker] | None:
        """The next message and its connection; None for one that was refused, or if none waits."""
        if self._reader.done():
            self._reader.result()
        if self._inbox.empty():
            return None
        identity, *frames = self._inbox.get_nowait()
        try:
            return identity, decode(frames, FROM_WORKER)
        except VersionMismatchError as error:
            self.refused_versions += 1
            self._refused(error)
            await self.send(identity, Refuse(reason=error.message, hint=error.hint))
        except WireError as error:
            self.refused_frames += 1
            self._refused(error)
        return None

    def _refused(self, error: WireError) -> None:
        # One line of the log for each kind of refusal, however often it comes.
        if error.message != self.last_refusal:
            log.warning("refused a frame: %s", error)
        self.last_refusal = error.message

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


def open_router(address: str) -> zmq.asyncio.Socket:
    """The socket that workers connect to. Raises `UsageError` when it cannot be bound."""
    router = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
    router.set(zmq.ROUTER_MANDATORY, 1)
    # A worker whose connection broke comes back under its identity before the old one times out.
    router.set(zmq.ROUTER_HANDOVER, 1)
    router.set(zmq.MAXMSGSIZE, MAX_BYTES + 1024)
    router.set(zmq.SNDHWM, 1000)
    router.set(zmq.RCVHWM, 1000)
    router.set(zmq.HEARTBEAT_IVL, 5000)
    router.set(zmq.HEARTBEAT_TIMEOUT, 20000)
    try:
        router.bind(address)
    except zmq.ZMQError as error:
        router.close(linger=0)
        raise UsageError(
            f"cannot listen on {address}: {error}",
            "is another master using the port? choose another --bind",
        ) from error
    return router
