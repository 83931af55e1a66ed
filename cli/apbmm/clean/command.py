"""`apbmm clean`: lists what workers have left behind, and removes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apbmm.clean.leftovers import MEANINGS, Found, Leftover, find_leftovers, remove, states_in
from apbmm.results.json_form import print_json
from apbmm.results.run_directories import find_run
from apbmm_common.errors import EXIT_DONE, EXIT_FAILED, UsageError
from apbmm_common.process.home import state_home
from apbmm_worker.daemon.options import lock_folder

SCHEMA = 1
UNITS = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class CleanRequest:
    """What the command line asks for. Without ``removes`` the leftovers are only listed."""

    runs: Sequence[str]
    states: Sequence[Path] = ()
    removes: bool = False
    as_json: bool = False


def run_clean(request: CleanRequest) -> int:
    """List leftovers, or remove them; returns the exit code, 1 where some could not be removed.

    Raises `UsageError` for a run or a state folder that does not exist.
    """
    runs = [find_run(name) for name in request.runs]
    states = [state for named in request.states for state in states_in(named)]
    found = find_leftovers([*_own_states(), *states], runs, lock_folder())
    removed = [each for each in found.leftovers if request.removes and remove(each)]
    if request.as_json:
        print_json(_as_json(found, removed))
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(request, found, removed)))
    failed = request.removes and len(removed) < len(found.leftovers)
    return EXIT_FAILED if failed else EXIT_DONE


def _own_states() -> list[Path]:
    """The states of this user's workers."""
    try:
        return states_in(state_home() / "workers")
    except UsageError:  # there are none
        return []


def _as_json(found: Found, removed: Sequence[Leftover]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "leftovers": [
            {
                "kind": each.kind,
                "path": str(each.path),
                "bytes": each.size,
                "removed": each in removed,
            }
            for each in found.leftovers
        ],
        "kept": [{"path": str(each.path), "reason": each.reason} for each in found.kept],
    }


def _lines(request: CleanRequest, found: Found, removed: Sequence[Leftover]) -> Iterator[str]:
    for each in found.leftovers:
        mark = "" if not request.removes else "removed  " if each in removed else "in use   "
        yield f"{mark}{in_bytes(each.size):>10}  {each.path}  ({MEANINGS[each.kind]})"
    for kept in found.kept:
        yield f"kept: {kept.path}: {kept.reason}"
    total = in_bytes(sum(each.size for each in found.leftovers))
    if not found.leftovers:
        yield "nothing is left behind"
    elif request.removes:
        yield f"{len(removed)} of {len(found.leftovers)} removed"
    else:
        yield f"{len(found.leftovers)} found, {total}: the same command with --yes removes them"


def in_bytes(size: int) -> str:
    """A number of bytes for people."""
    value = float(size)
    for unit in UNITS:
        if value < 1000 or unit == UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == UNITS[0] else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
