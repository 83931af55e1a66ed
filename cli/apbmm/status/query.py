"""Finds a run and asks for its status snapshot: its master's, or else its journal's."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from apbmm.results.run_directories import find_run, local_address
from apbmm_common.errors import ApbmmError, UsageError
from apbmm_common.protocol.addresses import needs_ipv6
from apbmm_common.protocol.curve_keys import ClientKeys, reader_keys

Snapshot = dict[str, Any]

ANSWER_SECONDS = 3.0
"""How long to wait for a master's answer. The local socket of a dead one refuses at once."""


class NoMasterError(ApbmmError):
    """No master answers at a status address."""


@dataclass(frozen=True)
class Target:
    """Where to ask: a run directory, or just the address of a master's status socket."""

    run_dir: Path | None
    address: str = ""
    keys: ClientKeys | None = None

    def snapshot(self) -> Snapshot:
        """The present status. Raises `NoMasterError` or `JournalError` if there is none."""
        if self.run_dir is None:
            return ask(self.address, self.keys)
        address = local_address(self.run_dir)
        if address:
            with contextlib.suppress(NoMasterError):
                return ask(address)
        return from_journal(self.run_dir)


def find(run: str | None, keys: str | None = None) -> Target:
    """The target that ``run`` names: an address, or a run as `find_run` finds it.

    ``keys`` is the folder of keys, for an address.
    """
    if run is not None and "://" in run:
        return Target(None, run, reader_keys(keys))
    return Target(
        find_run(run, "give the run directory or name of a run, or an address: tcp://HOST:PORT")
    )


def ask(address: str, keys: ClientKeys | None = None, *, request: bytes = b"status") -> Snapshot:
    """One answer of a status socket, by default the snapshot.

    Raises `NoMasterError` or `UsageError`.
    """
    with zmq.Context() as context, context.socket(zmq.REQ) as asking:
        asking.set(zmq.LINGER, 0)
        asking.set(zmq.RCVTIMEO, int(ANSWER_SECONDS * 1000))
        if keys is not None:
            keys.secure(asking)
        try:
            asking.set(zmq.IPV6, needs_ipv6(address))
            asking.connect(address)
        except zmq.ZMQError as error:
            raise UsageError(f"{address}: {error}", "as in tcp://HOST:PORT") from error
        try:
            asking.send(request)
            answer = json.loads(asking.recv())
        except (zmq.Again, ValueError):
            raise NoMasterError(f"no master answers at {address}", _remedy(keys)) from None
    if not isinstance(answer, dict) or "error" in answer:
        raise NoMasterError(f"{address} is not a master's status socket: {answer}")
    return answer


def _remedy(keys: ClientKeys | None) -> str:
    if keys is None:
        return "does it run, and without keys? --keys names a folder of keys"
    return f"does it run, with these keys? they are in {keys.folder}; --keys none goes without"


def from_journal(run_dir: Path) -> Snapshot:
    """The status according to the journal. Raises `JournalError`."""
    from apbmm_master.journal.run_state import RunState
    from apbmm_master.journal.store import read_journal, read_kept
    from apbmm_master.status.snapshot import journal_snapshot

    kept = read_kept(run_dir)
    return journal_snapshot(RunState().replay(read_journal(run_dir)), kept=kept)
