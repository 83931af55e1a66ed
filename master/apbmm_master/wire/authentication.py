"""Who comes in: handshakes are answered, and every frame's key is looked up again.

With keys, libzmq asks `Authenticator` over ZAP about each new connection, and marks each frame of
it with the key that it proved (its User-Id). A key that is revoked later is noticed at its next
frame. Without keys everybody comes in, so that the master may only be reached from its own host.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Literal

import zmq
import zmq.asyncio
from zmq.auth.base import Authenticator as ZapAuthenticator

from apbmm_common.protocol import socket_monitor
from apbmm_common.protocol.curve_keys import MasterKeys
from apbmm_common.protocol.messages import FromWorker, Hello
from apbmm_master.wire.allow_list import AllowList
from apbmm_master.wire.endings import Endings
from apbmm_master.wire.refusals import NotAllowedError, Refusals

log = logging.getLogger(__name__)

WORKERS, STATUS = "workers", "status"
"""ZAP domains: the master's own key may ask for the status, but is no worker's."""


class Authenticator:
    """Keeps the allow-list of one master; one in a process, for libzmq has one ZAP handler.

    ``exposed``: other hosts reach the master; somebody said that this is wanted without keys.
    """

    def __init__(self, keys: MasterKeys | None = None, *, exposed: bool = False) -> None:
        self.keys = keys
        self.refusals = Refusals()
        self._exposed = exposed
        self._allowed = AllowList(keys.allowed) if keys else None
        self._tasks: list[asyncio.Task[None]] = []
        self._endings: list[Endings] = []
        self._zap: _Zap | None = None

    @property
    def security(self) -> Literal["curve", "local", "insecure"]:
        """What keeps strangers out: keys, that only this host reaches the master, or nothing."""
        if self.keys is not None:
            return "curve"
        return "insecure" if self._exposed else "local"

    @property
    def revision(self) -> int:
        """Changes whenever somebody was let in or shut out."""
        return self._allowed.revision if self._allowed else 0

    def look(self) -> int:
        """See what has changed in the allow-list; its `revision`."""
        if self._allowed is not None:
            self._allowed.look()
        return self.revision

    def open(self) -> None:
        """Begin to answer handshakes; needs a running event loop."""
        if self.keys is not None:
            self._zap = _Zap(self)
            self._tasks.append(asyncio.create_task(self._zap.answer()))

    async def close(self) -> None:
        """Stop answering, after the sockets are closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._zap is not None:
            self._zap.stop()

    def check(self) -> None:
        """Raise what ended a task: a master that answers no handshake must not go on unnoticed."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    def guard(self, server: zmq.asyncio.Socket, domain: str) -> Endings:
        """Demand keys of whoever connects to a socket that is not bound yet, and `watch` it."""
        if self.keys is not None:
            self.keys.secure(server, domain)
        return self.watch(server)

    def watch(self, server: zmq.asyncio.Socket, *, probed: bool = False) -> Endings:
        """Count what becomes of the connections to a socket that is not bound yet.

        What is returned is to be told of those that may end. ``probed``: a connection that never
        came about is nothing to count, for programs connect only to see whether the master lives.
        """
        endings = Endings()
        self._endings.append(endings)
        watching = self._watch(socket_monitor.monitor(server), endings, probed=probed)
        self._tasks.append(asyncio.create_task(watching))
        return endings

    @property
    def cut_off(self) -> int:
        """Connections that ended without a word, or for a frame over their socket's limit."""
        return sum(endings.cut_off for endings in self._endings)

    # ---- keys ----------------------------------------------------------------------------

    def lets_in(self, domain: str, key: bytes) -> bool:
        """Whether a key may connect to a socket of a domain."""
        assert self._allowed is not None
        assert self.keys is not None
        if self._allowed.name_of(key):
            return True
        return domain == STATUS and key == self.keys.pair.public

    def require_key(self, key: str) -> str:
        """The worker that a key belongs to; empty without keys. Raises `NotAllowedError`."""
        if self._allowed is None:
            return ""
        name = self._allowed.name_of(key.encode())
        if not name:
            former = self._allowed.former_name_of(key.encode())
            raise NotAllowedError(*(revoked(former) if former else unknown(key)))
        return name

    def require_reader(self, key: str) -> None:
        """Refuse a question about the status by whoever may not ask. Raises `NotAllowedError`."""
        if self._allowed is not None and not self.lets_in(STATUS, key.encode()):
            self.require_key(key)

    def require_name(self, message: FromWorker, name: str) -> None:
        """Refuse a HELLO under another name than its key's. Raises `NotAllowedError`."""
        if name and isinstance(message, Hello) and message.worker != name:
            raise NotAllowedError(
                f"the key is worker {name}'s, and not {message.worker}'s",
                f"start it with --name {name}, or give it a key of its own",
            )

    def still_lets_in(self, key: str, name: str) -> bool:
        """Whether a worker that is in may stay."""
        return self._allowed is None or self._allowed.is_allowed(key.encode(), name)

    # ---- connections that do not come about ----------------------------------------------

    async def _watch(self, source: zmq.asyncio.Socket, endings: Endings, *, probed: bool) -> None:
        with contextlib.closing(source):
            while True:
                event, value = await socket_monitor.next_event(source)
                endings.hear(event)
                # A key that is not allowed was counted, and named, when ZAP asked about it.
                denied = event == zmq.EVENT_HANDSHAKE_FAILED_AUTH
                if event & socket_monitor.FAILURES and not denied and not probed:
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


class _Zap(ZapAuthenticator):
    """pyzmq's ZAP handler with the door's allow-list, and a loop that survives what comes."""

    def __init__(self, authenticator: Authenticator) -> None:
        # Its debug messages hold keys of whoever tries.
        quiet = logging.getLogger("zmq.auth")
        quiet.setLevel(logging.ERROR)
        super().__init__(zmq.asyncio.Context.instance(), log=quiet)
        self._authenticator = authenticator
        self._address = ""
        for domain in (WORKERS, STATUS):
            self.configure_curve_callback(domain, self)
        self.start()

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether to let a key in; counts and names the one that is not."""
        if self._authenticator.lets_in(domain, key):
            return True
        try:
            self._authenticator.require_key(key.decode())
        except NotAllowedError as error:
            reason = f"a connection from {self._address}: {error.message}"
            self._authenticator.refusals.note("connections", reason, error.hint)
        return False

    async def answer(self) -> None:
        """Answer until cancelled."""
        poller = zmq.asyncio.Poller()
        poller.register(self.zap_socket, zmq.POLLIN)
        while True:
            await poller.poll()
            request = self.zap_socket.recv_multipart()
            self._address = request[3].decode(errors="replace") if len(request) > 3 else "?"
            try:
                await self.handle_zap_message(request)
            except (ValueError, zmq.ZMQError) as error:
                # REP wants its answer, or the next request is never read.
                log.error("a handshake could not be judged: %s", error)
                with contextlib.suppress(zmq.ZMQError, IndexError):
                    self._send_zap_reply(request[1], b"500", b"no verdict")


def unknown(key: str) -> tuple[str, str]:
    """Reason and hint for a key that was never let in. Public keys are no secrets."""
    return (
        f"the key {key[:8]}... is not allowed",
        "apbmm keys new-worker NAME on the master's host lets a worker in",
    )


def revoked(name: str) -> tuple[str, str]:
    """Reason and hint for a key that was let in once."""
    return f"the key of worker {name} was revoked", f"apbmm keys new-worker {name} makes a new one"
