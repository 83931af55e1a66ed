"""How every command ends: exit codes, and errors as one line with a hint."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from apbmm_common.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, ApbmmError

if TYPE_CHECKING:
    from cyclopts import App


def forget_empty_settings() -> None:
    """Take ``APBMM_X=`` of an environment file as not set."""
    for name in [n for n, value in os.environ.items() if n.startswith("APBMM_") and not value]:
        del os.environ[name]


def run_app(app: App) -> int:
    """Run a command and return its exit code; no error of a user shows a traceback."""
    from cyclopts.exceptions import CycloptsError

    try:
        result = app(exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return EXIT_USAGE
    except ApbmmError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
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
