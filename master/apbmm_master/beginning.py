"""What a master checks and keeps as it takes a run over: its keys, its run file, its place.

The run file and the place are kept for people. A run goes on where they cannot be written.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from apbmm_common.errors import UsageError
from apbmm_common.process.known_runs import note_run, places_of
from apbmm_common.process.whole_files import write_whole
from apbmm_common.run_file import run_as_toml
from apbmm_master.journal.state.master_sessions import change_of_keys
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.run_directory import GIVEN, RESOLVED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beginning:
    """A master's start.

    ``given`` is the run file's content. ``keys_named``: whether the operator said which keys, or
    that there are none, and did not leave it to the default folder.
    """

    run_dir: Path
    given: bytes
    keys_named: bool

    def accept(self, run_state: RunState) -> None:
        """Note the run and keep its run file. Raises `UsageError` for keys that have changed."""
        assert run_state.spec is not None
        change = "" if run_state.finished else change_of_keys(run_state.masters)
        if change and not self.keys_named:
            raise UsageError(
                f"{change}: its workers would be shut out",
                "name its folder of keys with --keys, or --keys none for a run without",
            )
        if change:
            log.warning("%s: workers that were begun otherwise are shut out", change)
        try:
            write_whole(self.run_dir / GIVEN, self.given)
            write_whole(self.run_dir / RESOLVED, run_as_toml(run_state.spec).encode())
        except OSError as error:
            log.warning("%s: the run file could not be kept: %s", self.run_dir, error)
        note_run(run_state.run, self.run_dir)


def elsewhere(folder: Path, name: str) -> str:
    """Says where runs of a run file's name are, if ``folder`` holds none; "" if there are none."""
    try:
        if folder.exists():
            return ""
    except OSError:
        return ""
    places = [str(place) for place in places_of(name)]
    if not places:
        return ""
    return (
        f"begins a new run in {folder}; runs called {name} are in {', '.join(places)} "
        "(--run-dir goes on with one)"
    )
