"""What a service tells systemd: ready, alive, busy ending; after sd_notify(3).

The protocol is one datagram of lines to the socket that NOTIFY_SOCKET names, which needs no
library. Without the variable nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

EVERY_SECONDS = 5.0
"""Between two reports, unless the watchdog wants them sooner."""
PATIENCE = 12
"""How many reports in a row may be late before systemd may give up on an end that takes long."""


class Supervisor:
    """The service manager's ear. Everything is sent from the caller's own thread.

    `turn` is to be called from the loop whose life is to be watched, many times a second: when it
    is called no more, the watchdog is not fed. The variables are taken out of ``environment``, so
    that no child speaks for this process.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        watchdog = float(environment.pop("WATCHDOG_USEC", "") or 0) / 1e6
        if environment.pop("WATCHDOG_PID", "") not in ("", str(os.getpid())):
            watchdog = 0.0
        # systemd asks for half the interval at least; a third leaves room for one late turn.
        self._pause = min(EVERY_SECONDS, watchdog / 3) if watchdog else EVERY_SECONDS
        self._watched = watchdog > 0
        self._next: float | None = None
        self._stopping = False

    def turn(self, status: str, *, stopping: bool = False) -> None:
        """The loop has come round, for the first time when the service is up.

        ``stopping`` once nothing new is started. An end that takes long is granted more time with
        every report.
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
        # An abstract socket's name begins with a zero byte, written as @.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        text = "\n".join(line.replace("\n", " ") for line in lines)
        with (
            contextlib.suppress(OSError),  # a manager that went away is no reason to stop
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ear,
        ):
            ear.sendto(text.encode(), address)
