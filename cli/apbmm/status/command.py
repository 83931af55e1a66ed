"""`apbmm status`: prints the status of a run, once or until the run is finished."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from apbmm.status.query import Target, find
from apbmm_common.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from apbmm_common.protocol.status_requests import NoMasterError, Snapshot

if TYPE_CHECKING:
    from rich.console import Console

    from apbmm.results.confirmation import Confirmation
    from apbmm.results.run_results import RunResults

REDRAW_SECONDS = 1.0


def show_status(
    run: str | None,
    *,
    watch: bool,
    as_json: bool,
    lists_all: bool = False,
    keys: str | None = None,
) -> int:
    """Print the status of a run, once or until it is finished; returns the exit code.

    With ``lists_all`` every evaluation follows. Raises `UsageError` for options that exclude each
    other, and where there is no run.
    """
    if watch and as_json:
        raise UsageError(
            "--watch and --json exclude each other", "call apbmm status --json repeatedly"
        )
    if watch and lists_all:
        raise UsageError("--watch and --all exclude each other", "call apbmm status --all again")
    target = find(run, keys)
    if lists_all:
        return _print_all(target, as_json=as_json)
    if as_json:
        from apbmm.results.json_form import print_json

        print_json({**target.snapshot(), **_confirmation_as_json(target)})
        return EXIT_DONE
    return _watch(target) if watch else _print(target)


def _print_all(target: Target, *, as_json: bool) -> int:
    from apbmm.results.json_form import evaluation_as_json, print_json
    from apbmm.results.run_results import read_results
    from apbmm.status.view import console, evaluations_table, render

    if target.run_dir is None:
        raise UsageError("--all reads the journal", "give the run directory of a run, or its name")
    results = read_results(target.run_dir)
    if as_json:
        evaluations = [evaluation_as_json(results, each) for each in results.evaluations]
        confirmation = _confirmation_as_json(target, results)
        print_json({**target.snapshot(), **confirmation, "all": evaluations})
    else:
        screen = console()
        screen.print(render(target.snapshot()))
        screen.print(evaluations_table(results))
        _print_confirmation(target, results)
    return EXIT_DONE


def _print(target: Target) -> int:
    from apbmm.status.view import console, render

    console().print(render(target.snapshot()))
    _print_confirmation(target)
    return EXIT_DONE


def _confirmation(
    target: Target, results: RunResults | None
) -> tuple[RunResults, Confirmation] | None:
    """The search in a run directory with its confirmation; None where it has none.

    ``results`` are the search's, where they have been read already.
    """
    if target.run_dir is None:
        return None
    from apbmm_master.journal.run_start.confirmation import confirm_folder

    if not confirm_folder(target.run_dir).is_dir():
        return None
    from apbmm.results.confirmation import read_confirmation
    from apbmm.results.run_results import read_results

    search = results or read_results(target.run_dir)
    found = read_confirmation(search)
    return None if found is None else (search, found)


def _print_confirmation(target: Target, results: RunResults | None = None) -> None:
    from apbmm.results.confirmation import conclusion
    from apbmm.status.view import console

    if (both := _confirmation(target, results)) is not None:
        console().print("\n".join(conclusion(*both)), markup=False, soft_wrap=True)


def _confirmation_as_json(target: Target, results: RunResults | None = None) -> dict[str, Any]:
    """What is confirmed of the front, under ``confirmation``; empty where nothing is."""
    if (both := _confirmation(target, results)) is None:
        return {}
    _, found = both
    return {
        "confirmation": {
            "run": found.run.run,
            "wanted": found.wanted,
            "hypervolume": found.run.hypervolume,
            "holds": {merge.id: merge.holds for merge in found.front},
        }
    }


def _watch(target: Target) -> int:
    """Show the run until its end: on a terminal the live view, elsewhere a line for each event."""
    from apbmm.status.view import console, render

    output, last, code = console(), target.snapshot(), EXIT_DONE
    try:
        with _display(output) as show:
            show(last)
            while not _over(target, last):
                time.sleep(REDRAW_SECONDS)
                last = target.snapshot()
                show(last)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except NoMasterError:
        _require_end(target, last)
    finally:
        output.print(render(last))
    return code


@contextmanager
def _display(output: Console) -> Iterator[Callable[[Snapshot], None]]:
    """What is called with each snapshot to show it."""
    from apbmm.status.live.events import EventLines
    from apbmm.status.live.screen import LiveScreen, has_screen

    if has_screen(output):
        with LiveScreen(console=output) as screen:
            yield screen.show
        return
    lines = EventLines()

    def show(status: Snapshot) -> None:
        for line in lines.of(status):
            output.print(line, markup=False, soft_wrap=True)

    yield show


def _over(target: Target, last: Snapshot) -> bool:
    """Whether the status is final. In a run directory the master must have left, too."""
    return bool(last["finished"]) and not (target.run_dir and last["master_alive"])


def _require_end(target: Target, last: Snapshot) -> None:
    """Raise `NoMasterError` unless ``last`` shows that the master, now gone, was about to end."""
    if not (last.get("draining") or _is_spent(last)):
        raise NoMasterError(
            f"the master at {target.address} has gone, and its run was not finished",
            "the same apbmm-master command goes on with it",
        )
    sys.stderr.write(f"the master at {target.address} has ended\n")


def _is_spent(last: Snapshot) -> bool:
    """Whether a limit of the budget was reached, failed merges counted as completed."""
    counts, most = last["evaluations"], last["budget"]
    if most is not None and counts["done"] + counts["failed"] >= most:
        return True
    return any(limit["left"] <= 0 for limit in last.get("limits", ()))
