"""The worker's socket."""

from __future__ import annotations

import secrets

import zmq
import zmq.asyncio

from apbmm_common.codec import MAX_BYTES

LINGER_MILLISECONDS = 1000


def flush() -> None:
    """Let what was sent leave before the process ends, for at most `LINGER_MILLISECONDS`."""
    zmq.asyncio.Context.instance().destroy(linger=LINGER_MILLISECONDS)


def open_dealer(master: str) -> zmq.asyncio.Socket:
    """The connection to a master: it may start later, go and come back."""
    dealer = zmq.asyncio.Context.instance().socket(zmq.DEALER)
    dealer.set(zmq.IDENTITY, secrets.token_bytes(16).replace(b"\0", b"\1"))
    # Queue only on a living connection: stale HELLOs and beats must not pile up.
    dealer.set(zmq.IMMEDIATE, 1)
    dealer.set(zmq.MAXMSGSIZE, MAX_BYTES + 1024)
    dealer.set(zmq.SNDHWM, 1000)
    dealer.set(zmq.RECONNECT_IVL, 200)
    dealer.set(zmq.RECONNECT_IVL_MAX, 30_000)
    dealer.set(zmq.HEARTBEAT_IVL, 5000)
    dealer.set(zmq.HEARTBEAT_TIMEOUT, 20_000)
    dealer.connect(master)
    return dealer
