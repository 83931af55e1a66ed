"""The disk of a master's journal, or of a worker's outbox, fills up while a run goes on."""

from __future__ import annotations

import pytest

from apbmm_master.journal import read_journal
from apbmm_master.ledger import Ledger
from fault_accounts import Accounts, accounts
from rehearsal_runs import Site, wait_for
from small_disk import fill, small_disk


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
        status = wait_for("status to tell", lambda: s if (s := site.status())["trouble"] else None)
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


@pytest.mark.slow
def test_status_tells_of_a_workers_full_disk_and_what_it_refused_is_stored_when_it_can_be(
    site: Site,
) -> None:
    outbox = site.folder / "state" / "locks" / "a" / "outbox"
    with small_disk(outbox, 64) as disk:

        def configure(evaluations: int) -> None:
            budget = {"evaluations": evaluations, "initial": 4}
            site.configure(budget=budget, evaluation={"rehearsal_seconds": 0.5})

        def trouble() -> str:
            (row,) = site.status()["workers"]
            return str(row["trouble"])

        configure(4000)  # more than there is time for
        worker, master = site.worker("a"), site.master()
        wait_for("a result", site.done)
        assert trouble() == ""
        # What is delivered meanwhile is deleted, which frees some space.
        told = str(wait_for("status to tell", lambda: fill(disk) and trouble()))
        assert f"the outbox {outbox} could not be written: " in told
        assert "No space left" in told
        done = site.done()
        wait_for("further results, from memory", lambda: site.done() > done)
        fill(disk).unlink()
        wait_for("status to tell no more", lambda: trouble() == "")
        assert "can be written again" in worker.output

        # Measured while the disk was full and nobody took it; then the worker dies, too.
        wait_for("a full disk", lambda: fill(disk) and trouble())
        master.kill()
        dying = site.master(env={"APBMM_FAILPOINTS": "journal.begin/result=kill"})
        assert dying.end() < 0, dying.output
        assert list(outbox.glob("*.json")) == []
        fill(disk).unlink()
        wait_for("its file", lambda: list(outbox.glob("*.json")))
        worker.kill()
        site.worker("a")
        evaluations = site.done() + 4
        configure(evaluations)
        last = site.master()
        assert last.end() == 0, last.output
        site.assert_whole(evaluations)
        site.assert_nothing_was_repeated()
        assert accounts(site, [site.run_dir]) == Accounts([], [], [])
        site.close()
