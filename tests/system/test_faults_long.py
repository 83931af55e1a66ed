"""Long lives and restless fleets. Most workers are fakes on real sockets, which answer at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from apbmm_common.protocol.codec import decode
from apbmm_common.protocol.messages import FROM_MASTER
from apbmm_common.run_file import load_run_file
from apbmm_master.journal.events import ResultRecorded, WorkerJoined
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from apbmm_worker.child.rehearsal import prepared
from fake_peers import FakeWorker, master_in_process, until
from fault_accounts import SCALE, scaled
from protocol_world import world_spec
from rehearsal_runs import Process, Site, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

Recorder = Callable[[str, object], None]
FAKES, CROWD = 12, 4
YOUNG = 50  # evaluations, when all workers have been served
ONCE_MB = 3.0
EACH_KB = 6.0
"""A master may grow by `ONCE_MB` while it is young and by `EACH_KB` for each evaluation.

Of a finished evaluation it keeps the record without outcomes, the attempts, the score, and the
calls of the search method. Python's own count of that is 3.6 kB in this run, of four layers and one
benchmark, and 5.8 kB with 36 layers and two benchmarks.
"""


def resident(process: Process) -> float:
    """Megabytes of memory that a process has in use."""
    text = Path(f"/proc/{process.popen.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


async def most_resident(master: Process) -> float:
    """The most megabytes that a master has in use from now on until it ends well."""
    used = 0.0
    while master.popen.poll() is None:
        with contextlib.suppress(OSError, IndexError):  # it may end at any moment
            used = max(used, resident(master))
        await asyncio.sleep(0.05)
    assert master.popen.returncode == 0, master.output[-2000:]
    return used


def results(site: Site) -> int:
    """Completed evaluations, from the master's terminal: the journal is too long to be polled."""
    return site.processes[0].output.count(" s  HV ")


async def test_a_long_life_needs_no_more_memory_than_a_new_one(
    site: Site, record_property: Recorder
) -> None:
    """Each against its own past, a master also against one that is started on the same journal."""
    evaluations = scaled(20_000, 300)
    budget = {"evaluations": evaluations, "initial": evaluations}
    site.configure(budget=budget, evaluation={"rehearsal_seconds": 0.0})
    master, worker = site.master(), site.worker("real")
    digests = prepared(load_run_file(site.run_file)).digests
    await until("the real worker", lambda: site.running() or site.done() > 1)
    async with fleet(site, digests):
        await asyncio.to_thread(wait_for, "some", lambda: results(site) >= YOUNG)
        young = resident(master)
        await asyncio.to_thread(wait_for, "a quarter", lambda: 4 * results(site) > evaluations, 900)
        early, quarter, counted = resident(worker), resident(master), results(site)
        used = await most_resident(master)
        late = resident(worker)
    site.assert_whole(evaluations)

    began = time.process_time()
    run_state = RunState().replay(read_journal(site.run_dir))
    replay = time.process_time() - began
    assert len(run_state.completed) == evaluations
    site.configure(
        budget={**budget, "evaluations": evaluations + 20}, evaluation={"rehearsal_seconds": 0.0}
    )
    async with fleet(site, digests):
        new = await most_resident(site.master())
    assert replay < 5.0
    assert late < 1.05 * early
    since = evaluations - counted
    assert used - quarter < ONCE_MB + EACH_KB * since / 1024
    assert used - young < ONCE_MB + EACH_KB * evaluations / 1024
    assert used < 1.05 * new
    record_property(
        "figures",
        f"{evaluations} evaluations: worker {early:.1f} MB after a quarter, {late:.1f} MB at the"
        f" end; master {quarter:.1f} MB after a quarter, {used:.1f} MB at most from there to the"
        f" end, which is {1024 * (used - quarter) / since:.2f} kB an evaluation, {young:.1f} MB"
        f" after {YOUNG} evaluations, {new:.1f} MB when started anew on its journal; replay"
        f" {replay:.2f} s",
    )


@contextlib.asynccontextmanager
async def fleet(site: Site, digests: dict[str, str]) -> AsyncIterator[None]:
    """Fake workers that remember nothing of what they hear."""
    async with contextlib.AsyncExitStack() as at_work:
        for number in range(FAKES):
            fake = FakeWorker(site.address, f"fake{number}")
            fake.heard = Deaf()
            fake.sim.digests = digests
            await at_work.enter_async_context(fake.at_work())
        yield


class Deaf(list):  # type: ignore[type-arg]
    """Remembers nothing."""

    def append(self, _: object) -> None:
        """Forget it."""


class Guest(FakeWorker):
    """A fake worker that takes its time, and leaves when it likes."""

    def _hear(self, frames: list[bytes]) -> None:
        before = self.sim.held
        self.sim.hear(decode(frames, FROM_MASTER))
        if self.sim.held is not None and self.sim.held is not before:
            lease = self.sim.held.lease
            asyncio.get_running_loop().call_later(random.uniform(0.2, 2.0), self._finish, lease)

    def _finish(self, lease: str) -> None:
        if self.sim.held is not None and self.sim.held.lease == lease:
            self.sim.finish()


async def test_a_fleet_whose_workers_join_and_leave_all_the_time(
    tmp_path: Path, record_property: Recorder
) -> None:
    """Every second one comes, and one goes: with a word, without one, or to come back under its
    name with what it had not delivered.
    """
    evaluations = scaled(2200, 12)  # of which such a crowd gets about three a second done
    dice = random.Random(5)
    timings = {"beat": 0.2, "suspect": 1.0, "unreachable": 2.0, "orphan_grace": 1.0, "resend": 0.5}
    spec = world_spec(budget={"evaluations": evaluations, "initial": evaluations}, timings=timings)
    async with master_in_process(spec, tmp_path) as (master, address, task):
        present: list[tuple[Guest, contextlib.AsyncExitStack]] = []

        async def arrive(name: str, old: Guest | None = None) -> None:
            guest, stay = Guest(address, name), contextlib.AsyncExitStack()
            if old is not None:
                guest.sim.outbox = dict(old.sim.outbox)
            await stay.enter_async_context(guest.at_work())
            present.append((guest, stay))

        async def depart() -> None:
            guest, stay = present.pop(dice.randrange(len(present)))
            manner = dice.choice(["word", "silence", "reboot"])
            if manner == "word":
                guest.sim.bye()
                await until("its goodbye", lambda: not guest.sim.says)
            await stay.aclose()
            if manner == "reboot":
                await arrive(guest.sim.name, guest)

        began = time.monotonic()
        for number in itertools.count():
            if task.done():
                break
            await arrive(f"guest{number}")
            while len(present) > CROWD:
                await depart()
            await asyncio.sleep(1.0)
        end, lasted = await task, time.monotonic() - began
        for _, stay in present:
            await stay.aclose()
        assert end is not None
        assert not end.failed
        assert master.run_state.finished == end.reason
    records = read_journal(tmp_path)
    counted = [r.event.evaluation for r in records if isinstance(r.event, ResultRecorded)]
    assert len(counted) == len(set(counted)) == evaluations + 3
    joined = sum(isinstance(r.event, WorkerJoined) for r in records)
    assert SCALE < 1.0 or (lasted >= 600.0 and joined >= 600)
    record_property(
        "figures",
        f"{joined} arrivals in {lasted:.0f} s: {evaluations} evaluations, each counted once",
    )
