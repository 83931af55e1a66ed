"""The child's end of the socket that it shares with its daemon."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator

from apbmm_common.errors import WireError
from apbmm_worker.child_protocol import COMMANDS, Command, CommandFailed, EndAnswers, Event, Stop
from apbmm_worker.message_socket import bodies, message_in, to_bytes


class Channel:
    """Receives commands of the daemon and sends it events."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self._sending = threading.Lock()

    def send(self, event: Event) -> None:
        """Send one event; any thread may. Raises `WireError` for one that cannot be encoded."""
        data = to_bytes(event)
        with self._sending:
            self._socket.sendall(data)

    def serve(
        self, obey: Callable[[Command], None], end_answers: Callable[[str], None] = lambda _: None
    ) -> None:
        """Call ``obey`` with each command, until `Stop` or until the daemon closes the socket.

        ``end_answers`` is called with the lease of `EndAnswers`, in another thread, at once. A
        message that is not a command is answered with `CommandFailed`.
        """
        arrived: queue.SimpleQueue[Command | WireError | None] = queue.SimpleQueue()

        def read() -> None:
            try:
                for command in self._commands():
                    if isinstance(command, EndAnswers):
                        end_answers(command.lease)
                    else:
                        arrived.put(command)
            finally:
                arrived.put(None)

        threading.Thread(target=read, name="commands", daemon=True).start()
        while (command := arrived.get()) is not None:
            if isinstance(command, Stop):
                return
            if isinstance(command, WireError):
                self.send(CommandFailed(fault="infrastructure", message=command.message))
            else:
                obey(command)

    def _commands(self) -> Iterator[Command | WireError]:
        """The commands as they come; an error for a message that is none."""
        for body in bodies(self._file.read):
            try:
                yield message_in(body, COMMANDS)
            except WireError as error:
                yield error
