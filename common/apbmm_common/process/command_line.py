"""What all commands share: environment settings, exit codes, errors as one line with a hint."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from apbmm_common import __version__
from apbmm_common.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, ApbmmError
from apbmm_common.process.signals import INTERRUPTED, STOPS, sigint_exits_at_once

if TYPE_CHECKING:
    from cyclopts import App

SETTINGS = "APBMM_"
"""Prefix of the environment variables that replace options of a command line."""


def command_app(name: str, text: str, *, from_environment: bool = False) -> App:
    """A command without options yet; ``text`` is the first line of its help.

    With ``from_environment`` a variable can replace every option and argument.
    """
    from cyclopts import App
    from cyclopts.config import Env

    from apbmm_common.process.help_text import FlowingHelp

    return App(
        name=name,
        help=text,
        config=Env(SETTINGS, command=False) if from_environment else None,
        version=__version__,
        help_format="plaintext",
        help_formatter=FlowingHelp(),
        suppress_keyboard_interrupt=False,
    )


def run_command(module: str) -> NoReturn:
    """Import a module, run its ``app``, and exit with its code."""
    with sigint_exits_at_once():
        app = import_module(module).app
        import_module("apbmm_common.process.usage_errors")
    forget_empty_settings()
    code = run_app(app)
    for number in STOPS:  # no signal may change the exit code any more
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def forget_empty_settings() -> None:
    """Unset variables that are empty: ``APBMM_X=`` in an environment file sets nothing."""
    for name in [n for n, value in os.environ.items() if n.startswith(SETTINGS) and not value]:
        del os.environ[name]


def run_app(app: App) -> int:
    """Run a command and return its exit code. A user's error is reported without a traceback."""
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
    """Print an error and its hint to standard error.

    The hint stays in one line: commands are copied from it.
    """
    print(_between_words(f"error: {error.message}"), file=sys.stderr)  # noqa: T201
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201


def _between_words(text: str) -> str:
    """The text in lines of the terminal's width; as it is where standard error is none."""
    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return text
    if not width:
        return text
    fill = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False).fill
    return "\n".join(map(fill, text.splitlines()))
