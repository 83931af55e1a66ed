"""Reads the events of a ZeroMQ socket's monitor: why a handshake failed, and when a link is lost.

What libzmq reports of a failed handshake depends on the side. A key that is not allowed is a status
code on both sides, a missing key a mechanism mismatch on both. But if a client expects the key of
another server, the server sees a cryptographic error and the client only a closed connection.
"""

from __future__ import annotations

import os
from typing import Any

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
WATCHED = FAILURES | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


_PROTOCOL_ERRORS = {
    int(getattr(zmq, name)): name.removeprefix("PROTOCOL_ERROR_").replace("_", " ").lower()
    for name in dir(zmq)
    if name.startswith("PROTOCOL_ERROR_")
}


def monitor(socket: zmq.asyncio.Socket) -> zmq.asyncio.Socket:
    """A socket for `next_event`, with the handshakes and lost connections of ``socket``.

    To be called before ``socket`` binds or connects.
    """
    return socket.get_monitor_socket(WATCHED)


def close(socket: zmq.asyncio.Socket, linger: int) -> None:
    """Close a socket that may have a `monitor`; the monitor is to be closed after it.

    All sockets of a process share libzmq's I/O thread, which blocks without end when it writes an
    event to a monitor that is closed.
    """
    socket.disable_monitor()
    socket.close(linger=linger)


async def next_event(source: zmq.asyncio.Socket) -> tuple[zmq.Event, int]:
    """The next event and its value, which is an error code for a failure."""
    message: Any = await recv_monitor_message(source)
    return zmq.Event(message["event"]), int(message["value"])


def is_mismatch(event: zmq.Event, value: int) -> bool:
    """Whether the handshake failed because one side uses keys and the other does not."""
    return (event, value) == (
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH,
    )


def is_cryptographic(event: zmq.Event, value: int) -> bool:
    """Whether the handshake failed because the client used another server's public key."""
    return (event, value) == (
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC,
    )


def name_of(event: zmq.Event, value: int) -> str:
    """libzmq's own name of a failure."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value in _PROTOCOL_ERRORS:
        return _PROTOCOL_ERRORS[value]
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return os.strerror(value).lower()
    return f"status {value}"
