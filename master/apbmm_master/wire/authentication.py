"""Decides who may talk to the master: at the handshake, and again for every frame.

With keys, libzmq asks about each new connection over ZAP (its authentication protocol, RFC 27) and
marks every frame with the public key that the connection proved (the frame's User-Id). Looking that
key up again for each frame makes revocation take effect at the next one. Without keys every
connection is accepted, so the master should be reachable from its own host only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Literal

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from apbmm_common.protocol import socket_monitor
from apbmm_common.protocol.curve_keys import MasterKeys
from apbmm_common.protocol.messages import FromWorker, Hello
from apbmm_master.wire.allow_list import AllowList
from apbmm_master.wire.refusals import NotAllowedError, Refusals

log = logging.getLogger(__name__)

WORKERS = "workers"
"""ZAP domain of the workers' socket."""
STATUS = "status"
"""ZAP domain of the status socket, where the master's own key is accepted too."""


class Authenticator:
    """The allow-list of one master and its enforcement.

    A process can have only one that is open, because libzmq has one ZAP handler. ``exposed`` says
    that other hosts can reach the master although it has no keys (``--insecure``).
    """

    def __init__(self, keys: MasterKeys | None = None, *, exposed: bool = False) -> None:
        self.keys = keys
        self.refusals = Refusals()
        self._exposed = exposed
        self._allowed = AllowList(keys.allowed) if keys else None
        self._watchers: list[asyncio.Task[None]] = []
        self._handshakes: _Handshakes | None = None

    @property
    def security(self) -> Literal["curve", "local", "insecure"]:
        """What protects the master: keys, being reachable from this host only, or nothing."""
        if self.keys is not None:
            return "curve"
        return "insecure" if self._exposed else "local"

    @property
    def revision(self) -> int:
        """Grows with every change of the allow-list."""
        return self._allowed.revision if self._allowed else 0

    def look(self) -> int:
        """Read the allow-list's changes; returns its `revision`."""
        if self._allowed is not None:
            self._allowed.look()
        return self.revision

    def open(self) -> None:
        """Begin to answer handshakes. Needs a running event loop."""
        if self.keys is not None:
            self._handshakes = _Handshakes(self)
            self._handshakes.start()

    async def close(self) -> None:
        """Stop answering handshakes. To be called after the guarded sockets are closed."""
        if self._handshakes is not None:
            self._handshakes.stop()
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._watchers.clear()

    def check(self) -> None:
        """Raise the error that ended a task here, so that the master does not go on deaf."""
        if self._handshakes is not None and self._handshakes.failure is not None:
            raise self._handshakes.failure
        for watcher in self._watchers:
            if watcher.done() and not watcher.cancelled():
                watcher.result()

    def guard(self, server: zmq.asyncio.Socket, domain: str) -> None:
        """Demand keys on a socket that is not bound yet, and count its failed handshakes."""
        if self.keys is not None:
            self.keys.secure(server, domain)
        watching = self._count_failures(socket_monitor.monitor(server))
        self._watchers.append(asyncio.create_task(watching))

    # ---- keys ----------------------------------------------------------------------------

    def lets_in(self, domain: str, public_key: bytes) -> bool:
        """Whether the allow-list lets a key connect to the sockets of a domain."""
        assert self._allowed is not None
        assert self.keys is not None
        if self._allowed.name_of(public_key):
            return True
        return domain == STATUS and public_key == self.keys.pair.public

    def require_key(self, public_key: str) -> str:
        """Name of the worker that a key belongs to; "" without keys. Raises `NotAllowedError`."""
        if self._allowed is None:
            return ""
        name = self._allowed.name_of(public_key.encode())
        if not name:
            former = self._allowed.former_name_of(public_key.encode())
            raise NotAllowedError(*(revoked(former) if former else unknown(public_key)))
        return name

    def require_reader(self, public_key: str) -> None:
        """Raise `NotAllowedError` unless a key may ask for the status."""
        if self._allowed is not None and not self.lets_in(STATUS, public_key.encode()):
            self.require_key(public_key)

    def require_name(self, message: FromWorker, name: str) -> None:
        """Raise `NotAllowedError` for a HELLO that claims another name than that of its key."""
        if name and isinstance(message, Hello) and message.worker != name:
            raise NotAllowedError(
                f"the key is worker {name}'s, and not {message.worker}'s",
                f"start it with --name {name}, or give it a key of its own",
            )

    def still_lets_in(self, public_key: str, name: str) -> bool:
        """Whether a registered worker's key still belongs to its name."""
        return self._allowed is None or self._allowed.is_allowed(public_key.encode(), name)

    # ---- failed handshakes ---------------------------------------------------------------

    async def _count_failures(self, source: zmq.asyncio.Socket) -> None:
        with contextlib.closing(source):
            while True:
                event, value = await socket_monitor.next_event(source)
                # `_Handshakes` has counted and named a key that is not allowed.
                if event & socket_monitor.FAILURES and event != zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    self.refusals.note("connections", *self._why(event, value))

    def _why(self, event: zmq.Event, value: int) -> tuple[str, str]:
        if socket_monitor.is_mismatch(event, value):
            if self.keys is None:
                return "a connection with a key: this master has none", "give it --keys"
            return "a connection without a key", "apbmm keys new-worker NAME makes one"
        if socket_monitor.is_cryptographic(event, value):
            return (
                "a connection made for a master with another key",
                f"copy {self.keys.folder / 'master.key' if self.keys else 'its key'} to that host",
            )
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            return "a connection that its other end broke off", "has that end the keys it needs?"
        return f"a connection: {socket_monitor.name_of(event, value)}", ""


class _Handshakes(AsyncioAuthenticator):
    """pyzmq's ZAP handler, asking the allow-list of an `Authenticator`."""

    def __init__(self, authenticator: Authenticator) -> None:
        # pyzmq's debug messages hold the keys of rejected connections.
        log_errors_only = logging.getLogger("zmq.auth")
        log_errors_only.setLevel(logging.ERROR)
        super().__init__(zmq.asyncio.Context.instance(), log=log_errors_only)
        self.failure: Exception | None = None
        self._authenticator = authenticator
        self._address = ""
        for domain in (WORKERS, STATUS):
            self.configure_curve_callback(domain, self)

    def callback(self, domain: str, public_key: bytes) -> bool:
        """Whether to accept a key; counts a refusal and names its reason."""
        if self._authenticator.lets_in(domain, public_key):
            return True
        try:
            self._authenticator.require_key(public_key.decode())
        except NotAllowedError as error:
            reason = f"a connection from {self._address}: {error.message}"
            self._authenticator.refusals.note("connections", reason, error.hint)
        return False

    async def handle_zap_message(self, msg: list[bytes]) -> None:
        """Answer one handshake."""
        self._address = msg[3].decode(errors="replace") if len(msg) > 3 else "?"
        try:
            await super().handle_zap_message(msg)
        except Exception as error:
            self.failure = error  # pyzmq's task would end unnoticed; `Authenticator.check` raises
            raise


def unknown(public_key: str) -> tuple[str, str]:
    """Reason and hint for a key that was never allowed. (Public keys are not secret.)"""
    return (
        f"the key {public_key[:8]}... is not allowed",
        "apbmm keys new-worker NAME on the master's host lets a worker in",
    )


def revoked(name: str) -> tuple[str, str]:
    """Reason and hint for a key that was allowed before."""
    return (
        f"the key of worker {name} was revoked",
        f"apbmm keys new-worker {name} makes a new one, which a worker reads as it starts",
    )
