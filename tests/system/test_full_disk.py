"""The journal's disk fills up while a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zmq

from apbmm_master.journal import read_journal
from apbmm_master.ledger import Ledger
from rehearsal_runs import Site, wait_for
from small_disk import fill, small_disk


def ask_status(run_dir: Path) -> dict[str, Any]:
    """One request to the living master."""
    address = json.loads((run_dir / "status.json").read_text(encoding="utf-8"))["status"]
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
    try:
        socket.set(zmq.RCVTIMEO, 60_000)
        socket.connect(address)
        socket.send(b"status")
        answer: dict[str, Any] = json.loads(socket.recv())
        return answer
    finally:
        socket.close(linger=0)


@pytest.mark.slow
def test_nothing_is_acknowledged_that_is_not_stored_and_the_run_recovers(site: Site) -> None:
    with small_disk(site.folder / "run", 2048) as disk:
        site.configure(
            budget={"evaluations": 12, "initial": 12}, evaluation={"rehearsal_seconds": 0.5}
        )
        worker = site.worker("a")
        outbox = site.folder / "state" / "locks" / "a" / "outbox"
        master = site.master()
        wait_for("a few results", lambda: site.done() >= 2)
        ballast = fill(disk)
        status = wait_for(
            "status to tell", lambda: s if (s := ask_status(disk))["trouble"] else None
        )
        assert "could not be written" in status["trouble"]
        assert "full" in status["trouble"]
        stored = Ledger().replay(read_journal(disk))
        # What the worker delivers meanwhile stays in its outbox, and nothing is promised.
        held = {path.name.split(".")[1] for path in outbox.iterdir()}
        assert held.isdisjoint(stored.completed)
        assert len(Ledger().replay(read_journal(disk)).completed) == len(stored.completed)
        ballast.unlink()
        assert master.end() == 0, master.output
        site.assert_whole(12)
        site.assert_nothing_was_repeated()
        # The last acknowledgement may get lost with the connection; what it was for is stored.
        kept = {path.name.split(".")[1] for path in outbox.iterdir()}
        assert kept <= set(site.ledger().completed)
        assert worker.popen.poll() is None
        site.close()
