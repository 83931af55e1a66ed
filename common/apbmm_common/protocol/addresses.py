"""Checks TCP addresses from the command line before ZeroMQ sees them.

ZeroMQ reads ``tcp://localhost:5711x`` as port 5711, and its errors do not say what it expected.
"""

from __future__ import annotations

import ipaddress
import re

from apbmm_common.errors import UsageError

_TCP = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
_LARGEST_PORT = 65535
IPC = "ipc://"


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
