"""`apbmm compare`: runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apbmm.compare.runs import compare, read_runs
from apbmm.compare.view import print_json, print_table
from apbmm_common.errors import EXIT_DONE


def show_comparison(run_dirs: Sequence[Path], *, as_json: bool) -> int:
    """Print the comparison of runs; returns the exit code.

    Raises `UsageError` where a folder holds no run, or where the runs cannot be compared.
    """
    found = compare(read_runs(run_dirs))
    (print_json if as_json else print_table)(found)
    return EXIT_DONE
