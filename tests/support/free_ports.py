"""TCP ports for the servers that tests start."""

from __future__ import annotations

import contextlib
import secrets
import socket
from pathlib import Path

LOWEST, FEWEST = 10_000, 10_000
"""Ports are drawn from here on, and from no fewer than so many."""


def free_port() -> int:
    """A TCP port that nobody listens on now.

    It lies below the range from which the kernel gives out ports, where it can: otherwise any
    connection that is made before the server listens, by tests beside this one too, might get it.
    """
    given_out = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    count = max(int(given_out.split()[0]) - LOWEST, FEWEST)
    while True:
        port = LOWEST + secrets.randbelow(count)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
