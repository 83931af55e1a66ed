"""Why a connection did not come about, in words, from the events of a socket's monitor.

libzmq tells each side something else: a key that is not allowed is a status code on both, a
missing key a mechanism that differs on both; but a client that expects another server's key sees
only that the connection closes.
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
    """Where `next_event` hears of a socket's handshakes and lost connections.

    To be opened before the socket binds or connects.
    """
    return socket.get_monitor_socket(WATCHED)


def close(socket: zmq.asyncio.Socket, linger: int) -> None:
    """Close a socket that may have a `monitor`, which is to be closed after it.

    libzmq's I/O thread, which all sockets of the process share, tells a monitor of everything, and
    waits forever for one that is gone.
    """
    socket.disable_monitor()
    socket.close(linger=linger)


async def next_event(source: zmq.asyncio.Socket) -> tuple[zmq.Event, int]:
    """The next event, and its value: an error code for a failure."""
    message: Any = await recv_monitor_message(source)
    return zmq.Event(message["event"]), int(message["value"])


def is_mismatch(event: zmq.Event, value: int) -> bool:
    """Whether one end uses keys and the other none."""
    return (event, value) == (
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH,
    )


def is_cryptographic(event: zmq.Event, value: int) -> bool:
    """Whether a server could not open what a client encrypted for another key."""
    return (event, value) == (
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC,
    )


def name_of(event: zmq.Event, value: int) -> str:
    """libzmq's own name of a failure, for those that have no words of ours."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value in _PROTOCOL_ERRORS:
        return _PROTOCOL_ERRORS[value]
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return os.strerror(value).lower()
    return f"status {value}"
