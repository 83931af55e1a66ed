"""Signals that end a process: at once, after its current work, or after cleaning up."""

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
def sigint_exits_at_once() -> Iterator[None]:
    """Let SIGINT end the process at once, as SIGTERM does by default.

    For slow imports at the start, when there is nothing to clean up. There a KeyboardInterrupt can
    surface as an ImportError, or be lost in a callback that prints its traceback.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, for example: inherited from a shell
        yield
        return
    signal.signal(signal.SIGINT, _exit_interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _exit_interrupted(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(EXIT_INTERRUPTED)


class StopRequests:
    """Counts SIGINT and SIGTERM as requests to stop.

    Signals within `SAME_REQUEST_SECONDS` of the first belong to the same request, because
    ``timeout`` sends two, and so does a signal to a process and to its group.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        """The signal of each request."""
        self._first = 0.0

    def listen(self, act: Callable[[int], object]) -> None:
        """Call ``act`` in the running event loop with the signal of each request."""
        import asyncio

        def handle(number: int) -> None:
            if self.receive(number):
                act(number)

        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.add_signal_handler(number, handle, number)

    def ignore_more(self) -> None:
        """Ignore further signals while the process exits; for use within `handlers_restored`."""
        import asyncio

        loop = asyncio.get_running_loop()
        held_back = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        for number in STOPS:
            loop.remove_signal_handler(number)  # now the signal would end the process
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)

    def receive(self, number: int) -> bool:
        """Count a signal; returns whether it is a request of its own."""
        now = time.monotonic()
        if self.numbers and now - self._first < SAME_REQUEST_SECONDS:
            return False
        if not self.numbers:
            self._first = now
        self.numbers.append(number)
        return True

    @property
    def at_once(self) -> bool:
        """Whether a second request asks to leave the current work unfinished."""
        return len(self.numbers) > 1

    @property
    def exit_code(self) -> int:
        """Exit code after the requests: that of success only after a single SIGTERM."""
        gently = self.numbers == [signal.SIGTERM]
        return EXIT_DONE if gently else EXIT_INTERRUPTED


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM at the end."""
    before = [(number, signal.getsignal(number)) for number in STOPS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class _SignalError(BaseException):
    """Unwinds the stack after a signal that ends the process."""


@contextmanager
def stack_unwound_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, before they end the process.

    For work that must clean up (temporary files) when it is cut off.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    ours = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    received: list[int] = []

    def unwind(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        received.append(number)
        if len(received) == 1:  # a second signal does not disturb the cleaning up
            raise _SignalError

    for number in ours:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), received[0])
