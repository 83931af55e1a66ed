"""Connections that ended, and how many of them should not have.

libzmq closes a connection whose frame is over ZMQ_MAXMSGSIZE, and its monitor then tells what it
tells when the other end closes: DISCONNECTED, with the same value, after whatever came before. So
a frame that is too long is counted together with links that were lost and processes that were
killed: all connections that ended, less those that were refused with a reason and those that had
said what lets one expect their end.
"""

from __future__ import annotations

from collections import OrderedDict

import zmq

from apbmm_common.protocol import socket_monitor

REMEMBERED = 1000
"""Connections whose end is expected. libzmq gives no two of a socket the same identity; who claims
one, as no program of ours does, and comes again with it counts as cut off the second time. Of more
status readers than this at a time some are expected twice, and hide as many that are cut off."""


class Endings:
    """Of one socket: ``ended`` counts all but the refused. Pure."""

    def __init__(self) -> None:
        self.ended = self._expected = 0
        self._failed = False
        self._denied = 0
        self._leaving: OrderedDict[bytes, None] = OrderedDict()

    @property
    def cut_off(self) -> int:
        """Connections that ended unexpectedly.

        A goodbye that waits to be read when its connection has ended is missed until then.
        """
        return max(self.ended - self._expected, 0)

    def expect(self, connection: bytes) -> None:
        """Note that a connection, by its identity, may end now; once is enough."""
        if connection not in self._leaving:
            self._expected += 1
        self._leaving[connection] = None
        self._leaving.move_to_end(connection)
        if len(self._leaving) > REMEMBERED:
            self._leaving.popitem(last=False)

    def hear(self, event: zmq.Event) -> None:
        """Take in what the socket's monitor tells, in its order."""
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            # It ends when its peer has been told, and others may end before.
            self._denied += 1
        elif event & socket_monitor.FAILURES:
            self._failed = True  # it ends next: libzmq tells both at once
        elif event == zmq.EVENT_DISCONNECTED:
            if self._failed:
                self._failed = False
            elif self._denied:
                self._denied -= 1
            else:
                self.ended += 1
