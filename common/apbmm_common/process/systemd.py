"""Notifies systemd that a service is ready, alive or stopping (sd_notify(3)).

A notification is one datagram of lines to the socket named by NOTIFY_SOCKET. Without the variable
nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

EVERY_SECONDS = 5.0
"""Time between two notifications, unless the watchdog's interval asks for less."""
PATIENCE = 12
"""How many notifications of a slow stop may be missing before systemd kills the service."""


class Supervisor:
    """Sends the notifications of this process to systemd, from the caller's thread.

    The loop to be watched calls `turn` several times a second; when the loop hangs, systemd's
    watchdog is no longer fed. The variables are removed from ``environment``, so that no child
    process notifies in this one's name.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        watchdog = float(environment.pop("WATCHDOG_USEC", "") or 0) / 1e6
        if environment.pop("WATCHDOG_PID", "") not in ("", str(os.getpid())):
            watchdog = 0.0
        # systemd asks for at least two notifications in an interval; a third allows a late turn.
        self._pause = min(EVERY_SECONDS, watchdog / 3) if watchdog else EVERY_SECONDS
        self._watched = watchdog > 0
        self._next: float | None = None
        self._stopping = False

    def turn(self, status: str, *, stopping: bool = False) -> None:
        """Notify systemd if it is time. The first call means that the service is ready.

        ``status`` is a line for ``systemctl status``. ``stopping`` says that the service is about
        to end; each notification then asks for more time.
        """
        now = time.monotonic()
        if self._next is not None and now < self._next and stopping == self._stopping:
            return
        lines = [] if self._next is not None else ["READY=1"]
        lines.append(f"STATUS={status}")
        self._next = now + self._pause
        if self._watched:
            lines.append("WATCHDOG=1")
        if stopping and not self._stopping:
            lines.append("STOPPING=1")
        if stopping:
            lines.append(f"EXTEND_TIMEOUT_USEC={round(PATIENCE * self._pause * 1e6)}")
        self._stopping = stopping
        self._send(*lines)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # The name of an abstract socket begins with a zero byte, written as @.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        text = "\n".join(line.replace("\n", " ") for line in lines)
        with (
            contextlib.suppress(OSError),  # the run goes on without a service manager
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notified,
        ):
            notified.sendto(text.encode(), address)
