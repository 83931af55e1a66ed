"""The child's end of its socket: JSON lines, commands in and events out."""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Iterator
from typing import Any

from apbmm_common.process.parent_death import die_with


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


def channel_to_daemon(text: str) -> Channel:
    """What a child begins with: ``--fd``, its socket, and ``--parent``, whom it dies with.

    ``text`` is the description of the command.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    die_with(arguments.parent)
    return Channel(arguments.fd)
