"""The disk of a master's journal, or of a worker's outbox, fills up while a run goes on."""

from __future__ import annotations

import signal
from contextlib import closing

import pytest

from apbmm_common.protocol.messages import Assign, Bye, Hello, Ready, Result, ResultAck, Welcome
from apbmm_master.journal.events import ResultRecorded
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from fake_peers import FakeMaster
from fault_accounts import Accounts, accounts
from rehearsal_runs import Site, press, run_spec, wait_for
from small_disk import fill, small_disk


@pytest.mark.slow
def test_nothing_is_acknowledged_that_is_not_stored_and_the_run_recovers(site: Site) -> None:
    with small_disk(site.folder / "run", 2048) as disk:
        site.configure(budget={"evaluations": 12, "initial": 12})
        worker = site.worker("a", fault="hang:e0004")
        outbox = site.folder / "state" / "locks" / "a" / "outbox"
        master = site.master()
        wait_for("a few results", lambda: site.done() >= 2)
        ballast = fill(disk)
        worker.go_on()
        status = wait_for("status to tell", lambda: s if (s := site.status())["trouble"] else None)
        assert "could not be written" in status["trouble"]
        assert "full" in status["trouble"]
        stored = RunState().replay(read_journal(disk))
        # What the worker delivers meanwhile stays in its outbox, and nothing is promised.
        held = {path.name.split(".")[1] for path in outbox.iterdir()}
        assert held.isdisjoint(stored.completed)
        assert len(RunState().replay(read_journal(disk)).completed) == len(stored.completed)
        ballast.unlink()
        assert master.end() == 0, master.output
        site.assert_whole(12)
        site.assert_nothing_was_repeated()
        # The last acknowledgement may get lost with the connection; what it was for is stored.
        kept = {path.name.split(".")[1] for path in outbox.iterdir()}
        assert kept <= set(site.run_state().completed)
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


@pytest.mark.slow
@pytest.mark.parametrize("way_out", ["space", "master", "signal"])
async def test_a_worker_does_not_leave_with_a_result_that_is_nowhere_else(
    site: Site, way_out: str
) -> None:
    """Until there is space, the master has taken it, or a second signal says to lose it."""
    outbox = site.folder / "state" / "locks" / "a" / "outbox"
    with small_disk(outbox, 64) as disk, closing(FakeMaster(site.port)) as master:
        worker = site.worker("a")
        await master.hear(Hello)
        run = run_spec(evaluation={"rehearsal_seconds": 0.0})
        await master.say(Welcome(run="fake-1", epoch=1, spec=run.model_dump(mode="json")))
        ready = await master.hear(Ready)
        ballast = fill(disk)
        await master.say(
            Assign(
                run="fake-1", evaluation="e0001", attempt=1, lease="e0001.1", work="evaluate",
                vector=(1.0,) * 4, config=run.config_hash(ready.digests),
            )
        )  # fmt: skip
        await master.hear(Result)
        worker.signal(signal.SIGTERM)
        what = "cannot leave before the result of e0001.1 (fake-1) is stored or delivered"
        wait_for("its reason to stay", lambda: what in worker.output)
        assert "No space left" in worker.output
        if way_out == "space":
            ballast.unlink()
        elif way_out == "master":
            await master.say(ResultAck(run="fake-1", lease="e0001.1"))
        code = press(worker) if way_out == "signal" else worker.end()
        assert code == (130 if way_out == "signal" else 0)
        stored = ("e0001.1",) if way_out == "space" else ()
        assert (await master.hear(Bye)).kept == stored
        assert [path.name for path in disk.glob("*.json")] == [f"fake-1.{n}.json" for n in stored]
        told = "lost, neither stored nor delivered: the result of e0001.1" in worker.output
        assert told == (way_out == "signal")


@pytest.mark.slow
def test_a_worker_starts_on_a_full_disk_and_delivers_what_it_had_stored(site: Site) -> None:
    with small_disk(site.folder / "state", 2048) as disk:
        site.configure()
        first = "thinking.1"
        worker, master = site.worker("a", fault="hang:thinking"), site.master()
        wait_for("work in hand", lambda: any(x.startswith(first) for x in site.running()))
        master.kill()
        worker.go_on()
        outbox = disk / "locks" / "a" / "outbox"
        wait_for("a result", lambda: list(outbox.glob(f"*.{first}.*json")))
        worker.kill()
        ballast = fill(disk)
        again, master = site.worker("a"), site.master()
        wait_for(
            "its delivery",
            lambda: any(e.lease.startswith(first) for e in site.events(ResultRecorded)),
        )
        ballast.unlink()
        assert master.end() == 0, master.output
        site.assert_whole(6)
        site.assert_nothing_was_repeated()
        assert "Traceback" not in again.output
