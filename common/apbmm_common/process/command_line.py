"""How every command begins and ends: settings, exit codes, errors as one line with a hint."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from apbmm_common import __version__
from apbmm_common.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, ApbmmError
from apbmm_common.process.signals import INTERRUPTED, STOPS, leaving_at_once

if TYPE_CHECKING:
    from cyclopts import App

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
        import_module("apbmm_common.process.usage_errors")
    forget_empty_settings()
    code = run_app(app)
    for number in STOPS:  # the code is settled, and no signal is to change it
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def forget_empty_settings() -> None:
    """Take ``APBMM_X=`` of an environment file as not set."""
    for name in [n for n, value in os.environ.items() if n.startswith(SETTINGS) and not value]:
        del os.environ[name]


def run_app(app: App) -> int:
    """Run a command and return its exit code; no error of a user shows a traceback."""
    from cyclopts.exceptions import CycloptsError

    from apbmm_common.process.usage_errors import usage_error

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
