"""Confirms the front of a search: serves its merges to workers once more, on other questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apbmm_common.run_file import RunSpec
from apbmm_master.followers.launch import NOTHING, Beside
from apbmm_master.journal.events import FrontToConfirm
from apbmm_master.journal.run_start.confirmation import (
    confirm_folder,
    confirmation_spec,
    front_to_confirm,
)
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import NAME as JOURNAL
from apbmm_master.journal.storage.store import read_journal
from apbmm_master.serve import serve
from apbmm_master.wire.authentication import Authenticator


def ended_well(run_dir: Path) -> bool:
    """Whether the search in ``run_dir`` is over, and did not fail."""
    search = RunState().replay(read_journal(run_dir))
    return bool(search.finished) and not search.failed


def confirm_search(
    run_dir: Path,
    bind: str,
    status_bind: str | None,
    authenticator: Authenticator,
    *,
    spec: RunSpec | None = None,
    wanted: Sequence[str] = (),
    beside: Beside = NOTHING,
    summary: bool = True,
) -> int:
    """Measure the front of the search in ``run_dir`` once more, or the ``wanted`` evaluations.

    ``spec`` is the search's run file where that has been edited since. Merges that are confirmed
    already are not measured again. Returns the exit code. Raises what `serve` and `what_to_confirm`
    raise.
    """
    search = RunState().replay(read_journal(run_dir))
    confirming, front = what_to_confirm(run_dir, search, spec, wanted)
    return serve(
        confirming,
        confirm_folder(run_dir),
        bind,
        status_bind,
        authenticator,
        front=front,
        beside=beside,
        summary=summary,
    )


def what_to_confirm(
    run_dir: Path, search: RunState, spec: RunSpec | None = None, wanted: Sequence[str] = ()
) -> tuple[RunSpec, FrontToConfirm]:
    """The run that confirms a search, and what it measures; arguments as for `confirm_search`.

    Raises `UsageError` where there is nothing to confirm, or nothing to confirm it on.
    """
    front = front_to_confirm(search, wanted)
    folder = confirm_folder(run_dir)
    before = RunState()
    if (folder / JOURNAL).is_file():
        before.replay(read_journal(folder))
    assert search.spec is not None
    merges = len(before.to_confirm.keys() | front.vectors.keys())
    return confirmation_spec(spec or search.spec, merges), front
