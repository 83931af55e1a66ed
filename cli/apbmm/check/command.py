"""`apbmm check`: a dry run that names every fault at once, or says what would run."""

from __future__ import annotations

from pathlib import Path

from apbmm.check.inspect import inspect
from apbmm.check.view import print_faults, print_plan
from apbmm_common.errors import EXIT_DONE, EXIT_USAGE


def check(run_file: Path) -> int:
    """Print every fault of a run file, numbered, or what it would run; returns the exit code."""
    found = inspect(run_file)
    if found.faults:
        print_faults(found)
        return EXIT_USAGE
    print_plan(found)
    return EXIT_DONE
