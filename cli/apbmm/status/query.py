"""Finds a run and asks for its status snapshot: its master's, or else its journal's."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from apbmm.results.run_directories import find_run, local_address, may_not_ask
from apbmm_common.protocol.curve_keys import ClientKeys, reader_keys
from apbmm_common.protocol.status_requests import NoMasterError, Snapshot, ask


@dataclass(frozen=True)
class Target:
    """Where to ask: a run directory, or just the address of a master's status socket."""

    run_dir: Path | None
    address: str = ""
    keys: ClientKeys | None = None

    def snapshot(self) -> Snapshot:
        """The present status; ``master_alive`` is None where only another user may ask a master.

        Raises `NoMasterError` or `JournalError` if there is none, and `RequestFailedError` where
        the master answers with an error.
        """
        if self.run_dir is None:
            return ask(self.address, self.keys)
        address = local_address(self.run_dir)
        if address:
            with contextlib.suppress(NoMasterError):
                return ask(address)
        status = from_journal(self.run_dir)
        return {**status, "master_alive": None} if may_not_ask(self.run_dir) else status


def find(run: str | None, keys: str | None = None) -> Target:
    """The target that ``run`` names: an address, or a run as `find_run` finds it.

    ``keys`` is the folder of keys, for an address.
    """
    if run is not None and "://" in run:
        return Target(None, run, reader_keys(keys))
    return Target(
        find_run(run, "give the run directory or name of a run, or an address: tcp://HOST:PORT")
    )


def from_journal(run_dir: Path) -> Snapshot:
    """The status according to the journal. Raises `JournalError`."""
    from apbmm_master.journal.state.run_state import RunState
    from apbmm_master.journal.storage.store import read_journal, read_kept
    from apbmm_master.status.snapshot import journal_snapshot

    kept = read_kept(run_dir)
    return journal_snapshot(RunState().replay(read_journal(run_dir)), kept=kept)
