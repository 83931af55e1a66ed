"""The child's end of the socket that it shares with its daemon."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable

from apbmm_common.errors import WireError
from apbmm_common.process.parent_death import die_with
from apbmm_worker.child_protocol import (
    LENGTH,
    Command,
    CommandFailed,
    Event,
    Stop,
    body_length,
    command_in,
    to_bytes,
)


class Channel:
    """Receives commands of the daemon and sends it events."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._file = self._socket.makefile("rb")

    def send(self, event: Event) -> None:
        """Send one event. Raises `WireError` for an event that cannot be encoded."""
        self._socket.sendall(to_bytes(event))

    def serve(self, obey: Callable[[Command], None]) -> None:
        """Call ``obey`` with each command, until `Stop` or until the daemon closes the socket.

        A message that is not a command is answered with `CommandFailed`.
        """
        while len(prefix := self._file.read(LENGTH.size)) == LENGTH.size:
            body = self._file.read(body_length(prefix))
            try:
                command = command_in(body)
            except WireError as error:
                self.send(CommandFailed(fault="infrastructure", message=error.message))
                continue
            if isinstance(command, Stop):
                return
            obey(command)


def channel_to_daemon(text: str) -> Channel:
    """The channel that a child's command line names, which is parsed here.

    ``--fd`` is the child's socket, and ``--parent`` the process id of its daemon: the child dies
    when that process does. ``text`` is the description of the command.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    die_with(arguments.parent)
    return Channel(arguments.fd)
