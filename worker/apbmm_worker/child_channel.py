"""The child's end of its socket: JSON lines, commands in and events out."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

PR_SET_PDEATHSIG = 1


class Channel:
    """Commands from the daemon and events to it, over an inherited socket."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._file = self._socket.makefile("rb")

    def commands(self) -> Iterator[dict[str, Any]]:
        """Commands until the daemon closes the socket."""
        for line in self._file:
            yield json.loads(line)

    def send(self, event: str, **fields: Any) -> None:
        """Send one event; NaN and infinity are refused with ValueError."""
        text = json.dumps({"event": event, **fields}, allow_nan=False)
        self._socket.sendall(text.encode() + b"\n")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; exit if it is dead already."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent or parent == 1:
        os._exit(1)
