"""Asks a master's status socket; `apbmm_master.status.sockets` answers."""

from __future__ import annotations

import json
from typing import Any

import zmq

from apbmm_common.errors import ApbmmError, UsageError
from apbmm_common.protocol.addresses import needs_ipv6
from apbmm_common.protocol.curve_keys import ClientKeys

Snapshot = dict[str, Any]

ANSWER_SECONDS = 3.0
"""How long to wait for a master's answer. The local socket of a dead one refuses at once."""


class NoMasterError(ApbmmError):
    """No master answers at a status address."""


class RequestFailedError(ApbmmError):
    """A master answers, but not with what it was asked for."""


def ask(address: str, keys: ClientKeys | None = None, *, request: bytes = b"status") -> Snapshot:
    """One answer of a status socket, by default the snapshot.

    Raises `NoMasterError`, `RequestFailedError` where the answer is an error, or `UsageError`.
    """
    with zmq.Context() as context, context.socket(zmq.REQ) as asking:
        asking.set(zmq.LINGER, 0)
        asking.set(zmq.RCVTIMEO, int(ANSWER_SECONDS * 1000))
        if keys is not None:
            keys.secure(asking)
        try:
            asking.set(zmq.IPV6, needs_ipv6(address))
            asking.connect(address)
        except zmq.ZMQError as error:
            raise UsageError(f"{address}: {error}", "as in tcp://HOST:PORT") from error
        try:
            asking.send(request)
            answer = json.loads(asking.recv())
        except (zmq.Again, ValueError):
            raise NoMasterError(f"no master answers at {address}", _remedy(keys)) from None
    if not isinstance(answer, dict):
        raise NoMasterError(f"{address} is not a master's status socket: {answer}")
    if "error" in answer:
        raise RequestFailedError(f"{address}: {answer['error']}", str(answer.get("hint", "")))
    return answer


def _remedy(keys: ClientKeys | None) -> str:
    if keys is None:
        return "does it run, and without keys? --keys names a folder of keys"
    return f"does it run, with these keys? they are in {keys.folder}; --keys none goes without"
