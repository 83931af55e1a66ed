"""How every command begins and ends: signals, exit codes, errors as one line with a hint."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from apbmm_common import __version__
from apbmm_common.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, ApbmmError

if TYPE_CHECKING:
    from types import FrameType

    from cyclopts import App

INTERRUPTED = "interrupted"
STOPS = (signal.SIGINT, signal.SIGTERM)
SAME_REQUEST_SECONDS = 1.0
SETTINGS = "APBMM_"
"""How the environment variables begin that set what a command line does not."""


def command_app(name: str, text: str, *, from_environment: bool = False) -> App:
    """An empty command with what all of them share; ``text`` is the first line of its help.

    ``from_environment``: every flag and argument may be set by a variable instead.
    """
    from cyclopts import App
    from cyclopts.config import Env

    return App(
        name=name,
        help=text,
        config=Env(SETTINGS, command=False) if from_environment else None,
        version=__version__,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
    )


def run_command(module: str) -> NoReturn:
    """Run the ``app`` of a module, which is imported here, and exit with its code."""
    with leaving_at_once():
        app = import_module(module).app
        import_module("apbmm_common.wrong_usage")
    forget_empty_settings()
    code = run_app(app)
    for number in STOPS:  # the code is settled, and no signal is to change it
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


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


def forget_empty_settings() -> None:
    """Take ``APBMM_X=`` of an environment file as not set."""
    for name in [n for n, value in os.environ.items() if n.startswith(SETTINGS) and not value]:
        del os.environ[name]


def run_app(app: App) -> int:
    """Run a command and return its exit code; no error of a user shows a traceback."""
    from cyclopts.exceptions import CycloptsError

    from apbmm_common.wrong_usage import usage_error

    try:
        result = app(
            sys.argv[1:], exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        wrong = usage_error(error, app)
        report(wrong)
        return wrong.exit_code
    except ApbmmError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return result if isinstance(result, int) else EXIT_DONE


def report(error: ApbmmError) -> None:
    """Print an error and its hint to standard error."""
    print(f"error: {error.message}", file=sys.stderr)  # noqa: T201
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201
