"""A master on a real socket, against workers and strangers of the test's own."""

from __future__ import annotations

import asyncio
import gc
import random
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio
from blockbuster import blockbuster_ctx

from apbmm_common import PROTOCOL_VERSION
from apbmm_common.errors import EXIT_USAGE, JournalError, UsageError
from apbmm_common.protocol.codec import HEADER
from apbmm_common.protocol.messages import Beat, Failed, Refuse
from apbmm_master.journal.events import Finished, Record
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import Journal, read_journal
from apbmm_master.master import Master
from apbmm_master.scheduling.policy.decisions import FinishRun
from apbmm_master.search.errors import ReferenceScaleError
from apbmm_master.status.snapshot import live_snapshot
from commands import DEADLINE
from fake_peers import FakeWorker, master_in_process, until
from protocol_world import world_spec

TIMINGS = {"beat": 0.2, "suspect": 20.0, "unreachable": 40.0, "resend": 0.5}


def spec(**changes: Any) -> Any:
    return world_spec(timings=TIMINGS, **changes)


@pytest.mark.slow
async def test_a_run_goes_through_without_blocking_the_event_loop(tmp_path: Path) -> None:
    gc.collect()  # what earlier tests left, which blocks when it is collected
    async with master_in_process(spec(), tmp_path) as (master, address, task):
        with blockbuster_ctx("apbmm_master"):
            async with FakeWorker(address, "a").at_work(), FakeWorker(address, "b").at_work():
                async with asyncio.timeout(DEADLINE):
                    assert await task == FinishRun("4 evaluations completed")
        assert live_snapshot(master)["evaluations"]["done"] == 4
    assert RunState().replay(read_journal(tmp_path)) == master.run_state


@pytest.mark.slow
@pytest.mark.parametrize("stored", [True, False])
async def test_an_end_whose_commit_fails_comes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """Whether or not the disk has ``stored`` what it reports an error for."""
    append, failures = Journal.append, 0

    def failing_once(journal: Journal, records: list[Record]) -> None:
        nonlocal failures
        last = failures == 0 and any(isinstance(record.event, Finished) for record in records)
        if stored or not last:
            append(journal, records)
        if last:
            failures += 1
            raise JournalError("made up")

    monkeypatch.setattr(Journal, "append", failing_once)
    async with master_in_process(spec(), tmp_path) as (master, address, task):
        async with FakeWorker(address, "a").at_work(), asyncio.timeout(DEADLINE):
            assert await task == FinishRun("4 evaluations completed")
        assert failures == 1
    ends = [record for record in read_journal(tmp_path) if isinstance(record.event, Finished)]
    assert len(ends) == 1
    assert RunState().replay(read_journal(tmp_path)) == master.run_state


@pytest.mark.slow
@pytest.mark.parametrize("version", [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1])
async def test_another_protocol_version_is_refused_by_name_and_nobody_else_notices(
    tmp_path: Path, version: int
) -> None:
    async with master_in_process(spec(), tmp_path) as (master, address, task):
        odd = FakeWorker(address, "odd")
        odd.version = version
        expected = f"worker 'odd' speaks protocol {version}, this end {PROTOCOL_VERSION}"
        async with odd.at_work():
            await until("the refusal", lambda: odd.heard)
            (refusal,) = odd.heard
            assert isinstance(refusal, Refuse)
            assert refusal.reason == expected
            assert refusal.hint
            # Only HELLO says a name; it is not lost when something else is refused.
            odd.sim.says.append(Beat())
            await until("the next refusal", lambda: len(odd.heard) == 2)
            wire = live_snapshot(master)["wire"]
            assert (wire["refused_versions"], wire["refused_frames"]) == (2, 0)
            assert wire["last_refusal"] == expected
            async with FakeWorker(address, "a").at_work():
                assert (await task) == FinishRun("4 evaluations completed")
    assert {a.worker for e in master.run_state.evaluations.values() for a in e.attempts} == {"a"}


async def run_of(folder: Path, repeats: random.Random | None) -> dict[str, Any]:
    """A whole run by two workers; what it has come to, whoever did it and when."""
    async with master_in_process(spec(), folder) as (_, address, task):
        workers = [FakeWorker(address, name) for name in ("a", "b")]
        for worker in workers:
            worker.repeats = repeats
        async with workers[0].at_work(), workers[1].at_work():
            assert await task == FinishRun("4 evaluations completed")
    evaluations = RunState().replay(read_journal(folder)).evaluations
    return {e.id: (e.vector, e.state, e.body, len(e.attempts)) for e in evaluations.values()}


@pytest.mark.slow
async def test_repeated_and_shuffled_messages_give_the_same_result(tmp_path: Path) -> None:
    expected = await run_of(tmp_path / "once", None)
    assert await run_of(tmp_path / "often", random.Random(4)) == expected


@pytest.mark.slow
async def test_a_body_over_the_limit_cuts_the_connection_and_nothing_else(tmp_path: Path) -> None:
    async with master_in_process(spec(), tmp_path) as (_, address, task):
        stranger = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        stranger.connect(address)
        try:
            await stranger.send_multipart([HEADER, b"\0" * (3 << 20)])
            async with FakeWorker(address, "a").at_work():
                assert (await task) == FinishRun("4 evaluations completed")
        finally:
            stranger.close(linger=0)


async def test_an_expert_that_is_worse_ends_the_run_by_name_and_keeps_everything(
    tmp_path: Path,
) -> None:
    swapped = spec(
        objectives=[
            {
                "name": "reasoning",
                "metric": "accuracy",
                "expert": "thinking",
                "vanilla": "instruct",
            },
            {"name": "cost", "metric": "tokens", "expert": "thinking", "vanilla": "instruct"},
        ]
    )
    async with (
        master_in_process(swapped, tmp_path) as (_, address, task),
        FakeWorker(address, "a").at_work(),
    ):
        with pytest.raises(ReferenceScaleError, match=r"'cost'.*is worse than") as caught:
            await task
    assert caught.value.exit_code == EXIT_USAGE
    run_state = RunState().replay(read_journal(tmp_path))
    assert run_state.references_done
    with Journal(tmp_path) as journal:
        again = Master(journal, swapped, "tcp://127.0.0.1:*")
        with pytest.raises(ReferenceScaleError):  # at once, without waiting for a worker
            await again.run()


async def test_a_reference_that_cannot_be_measured_ends_the_run(tmp_path: Path) -> None:
    def work(evaluation: str) -> Failed | None:
        return Failed(fault="vector", message="NaN") if evaluation == "thinking" else None

    expected = FinishRun("thinking could not be measured: NaN", failed=True)
    async with (
        master_in_process(spec(), tmp_path) as (_, address, task),
        FakeWorker(address, "a", work).at_work(),
    ):
        assert await task == expected
    with Journal(tmp_path) as journal:
        assert await Master(journal, spec(), "tcp://127.0.0.1:*").run() == expected


async def test_a_port_in_use_is_named_and_nothing_is_journaled(tmp_path: Path) -> None:
    async with master_in_process(spec(), tmp_path / "one") as (_, address, _task):
        await asyncio.sleep(0)
        await until("the first master", lambda: read_journal(tmp_path / "one"))
        with Journal(tmp_path / "two") as journal:
            master = Master(journal, spec(), address)
            with pytest.raises(UsageError, match=r"cannot listen on .*in use") as caught:
                await master.run()
            assert "another master using the port" in caught.value.hint
            assert list(journal.records()) == []


@pytest.mark.parametrize(
    ("bind", "reason", "hint"),
    [
        ("tcp://203.0.113.77:5711", "assign requested address", "an address of this host"),
        ("tcp://no-such-host.invalid:5711", "No such device", "an address of this host"),
        ("ipc:///no/such/folder/apbmm.sock", "No such file", "choose another --bind"),
    ],
)
async def test_an_address_that_cannot_be_bound_is_told_from_one_in_use(
    tmp_path: Path, bind: str, reason: str, hint: str
) -> None:
    with Journal(tmp_path) as journal:
        with pytest.raises(UsageError, match=f"cannot listen on .*{reason}") as caught:
            await Master(journal, spec(), bind).run()
        assert hint in caught.value.hint
        assert "another master" not in caught.value.hint
