"""How every command begins and ends: signals, exit codes, errors as one line with a hint."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from apbmm_common.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, ApbmmError

if TYPE_CHECKING:
    from types import FrameType

    from cyclopts import App

INTERRUPTED = "interrupted"


def run_command(module: str) -> NoReturn:
    """Run the ``app`` of a module, which is imported here, and exit with its code."""
    with leaving_at_once():
        app = import_module(module).app
        import_module("apbmm_common.wrong_usage")
    forget_empty_settings()
    sys.exit(run_app(app))


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


def forget_empty_settings() -> None:
    """Take ``APBMM_X=`` of an environment file as not set."""
    for name in [n for n, value in os.environ.items() if n.startswith("APBMM_") and not value]:
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
