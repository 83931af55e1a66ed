"""Signals that end a process: at once, after what is in hand, or once it has tidied up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from apbmm_common.errors import EXIT_DONE, EXIT_INTERRUPTED

if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = "interrupted"
STOPS = (signal.SIGINT, signal.SIGTERM)
SAME_REQUEST_SECONDS = 1.0


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Take SIGINT as the end of the process, while there is nothing to tidy up.

    For imports that take long: a KeyboardInterrupt may come out of them as any other error, or be
    lost in a callback that prints its traceback. SIGTERM ends the process by default.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored by whoever started us, for one
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(EXIT_INTERRUPTED)


class StopRequests:
    """Signals to stop, as whoever sent them meant them.

    What comes within `SAME_REQUEST_SECONDS` of the first is the same request: ``timeout``, and
    whoever signals a group of processes, sends two.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        """The signal of each request."""
        self._first = 0.0

    def listen(self, act: Callable[[int], None]) -> None:
        """In the running event loop, call ``act`` with the signal of each request."""
        import asyncio

        def heard(number: int) -> None:
            if self.come(number):
                act(number)

        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.add_signal_handler(number, heard, number)

    def ignore_more(self) -> None:
        """End what `listen` began, within `own_signals`: what is left is to exit."""
        import asyncio

        loop = asyncio.get_running_loop()
        held_back = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        for number in STOPS:
            loop.remove_signal_handler(number)  # which lets the signal end the process
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)

    def come(self, number: int) -> bool:
        """A signal has come; whether it is a request of its own."""
        now = time.monotonic()
        if self.numbers and now - self._first < SAME_REQUEST_SECONDS:
            return False
        if not self.numbers:
            self._first = now
        self.numbers.append(number)
        return True

    @property
    def at_once(self) -> bool:
        """Whether to leave without finishing what is in hand."""
        return len(self.numbers) > 1

    @property
    def exit_code(self) -> int:
        """Of a process that stopped because of them: only one that was asked gently is done."""
        gently = self.numbers == [signal.SIGTERM]
        return EXIT_DONE if gently else EXIT_INTERRUPTED


@contextmanager
def own_signals() -> Iterator[None]:
    """At the end give the signals to stop back to whoever had them."""
    before = [(number, signal.getsignal(number)) for number in STOPS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class _EndedError(BaseException):
    """A signal that ends the process, on its way out."""


@contextmanager
def tidied_up_when_ended() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, before they end the process.

    For work that leaves something behind when it is cut off.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    ours = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    came: list[int] = []

    def unwind(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        came.append(number)
        if len(came) == 1:  # a second one leaves the tidying up alone
            raise _EndedError

    for number in ours:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if came:
            os.kill(os.getpid(), came[0])
