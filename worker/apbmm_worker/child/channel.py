"""The child's end of the socket that it shares with its daemon."""

from __future__ import annotations

import socket
from collections.abc import Callable

from apbmm_common.errors import WireError
from apbmm_worker.child_protocol import COMMANDS, Command, CommandFailed, Event, Stop
from apbmm_worker.message_socket import bodies, message_in, to_bytes


class Channel:
    """Receives commands of the daemon and sends it events."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")

    def send(self, event: Event) -> None:
        """Send one event. Raises `WireError` for an event that cannot be encoded."""
        self._socket.sendall(to_bytes(event))

    def serve(self, obey: Callable[[Command], None]) -> None:
        """Call ``obey`` with each command, until `Stop` or until the daemon closes the socket.

        A message that is not a command is answered with `CommandFailed`.
        """
        for body in bodies(self._file.read):
            try:
                command = message_in(body, COMMANDS)
            except WireError as error:
                self.send(CommandFailed(fault="infrastructure", message=error.message))
                continue
            if isinstance(command, Stop):
                return
            obey(command)
