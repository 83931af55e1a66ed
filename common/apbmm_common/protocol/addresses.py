"""Checks TCP addresses from the command line before ZeroMQ sees them.

ZeroMQ reads ``tcp://localhost:5711x`` as port 5711, and its errors do not say what it expected.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from typing import Any

import zmq

from apbmm_common.errors import UsageError

_TCP = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
_LARGEST_PORT = 65535
IPC = "ipc://"
ANYWHERE = {
    "tcp://0.0.0.0:": "tcp://127.0.0.1:",
    "tcp://*:": "tcp://127.0.0.1:",
    "tcp://[::]:": "tcp://[::1]:",
}
"""Where a master listens on every address of a host, and where that host's workers reach it."""


def require_tcp(address: str, flag: str) -> str:
    """The host in ``tcp://HOST:PORT``. Raises `UsageError`, naming ``flag``, for any other text."""
    found = _TCP.fullmatch(address)
    if found is None or not 0 < int(found["port"]) <= _LARGEST_PORT:
        raise UsageError(f"{flag} {address}: not an address", "as in tcp://127.0.0.1:5711")
    return found["host"].strip("[]")


def is_local(address: str, flag: str) -> bool:
    """Whether only this host can reach an address. Raises `UsageError` if it is not an address."""
    if address.startswith(IPC):
        return True
    host = require_tcp(address, flag)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reached_at(bind: str) -> str:
    """The address at which this host's workers reach a master that listens on ``bind``."""
    for everywhere, here in ANYWHERE.items():
        if bind.startswith(everywhere):
            return here + bind.removeprefix(everywhere)
    return bind


def reached_from_elsewhere(bind: str) -> str:
    """The address at which other hosts reach what listens on every address of this host.

    It has this host's name. "" for a ``bind`` that is one address, which is the same for all.
    """
    if not bind.startswith(tuple(ANYWHERE)):
        return ""
    return f"tcp://{socket.gethostname()}:{bind.rpartition(':')[2]}"


def own_name_replaced(address: str) -> str:
    """The loopback address in place of one with this host's name; "" for another address.

    A name may be that of several interfaces, so `is_local` does not take it for the loopback's.
    """
    found = _TCP.fullmatch(address)
    if found is None or found["host"] != socket.gethostname():
        return ""
    return f"tcp://127.0.0.1:{found['port']}"


def needs_ipv6(address: str) -> bool:
    """Whether an address is IPv6, or its host a name that has IPv6 addresses only.

    A name is looked up, which may take seconds. Raises `UsageError` for a name that does not
    resolve.
    """
    found = _TCP.fullmatch(address)
    if found is None or found["host"] == "*":
        return False
    host = found["host"].strip("[]")
    try:
        resolved = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"{address}: the host name {host} does not resolve: {reason}",
            "is it spelled right, and known to this host? an IP address will do",
        ) from error
    return all(family == socket.AF_INET6 for family, *_ in resolved)


def allow_ipv6(zmq_socket: zmq.Socket[Any], address: str) -> None:
    """Let a socket bind to an address that `needs_ipv6`; to be called before it does.

    A name that does not resolve may be a network interface's, which ZeroMQ can bind to.
    """
    with contextlib.suppress(UsageError):
        zmq_socket.set(zmq.IPV6, needs_ipv6(address))
