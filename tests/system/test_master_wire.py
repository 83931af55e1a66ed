"""A master on a real socket, against workers and strangers of the test's own."""

from __future__ import annotations

import asyncio
import math
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
import zmq.asyncio
from blockbuster import blockbuster_ctx

from apbmm_common import PROTOCOL_VERSION
from apbmm_common.codec import HEADER, encode
from apbmm_common.errors import EXIT_FAILED, UsageError
from apbmm_common.messages import Beat, Failed, Refuse
from apbmm_master.journal import Journal, read_journal
from apbmm_master.ledger import Ledger
from apbmm_master.master import Master
from apbmm_master.policy import Finish
from apbmm_master.search_errors import ReferenceScaleError
from apbmm_master.status import live_snapshot
from fake_peers import FakeWorker, master_in_process, until
from protocol_world import world_spec
from rehearsal_runs import DEADLINE

TIMINGS = {"beat": 0.2, "suspect": 20.0, "unreachable": 40.0, "resend": 0.5}


def spec(**changes: Any) -> Any:
    return world_spec(timings=TIMINGS, **changes)


async def test_a_run_goes_through_without_blocking_the_event_loop(tmp_path: Path) -> None:
    async with master_in_process(spec(), tmp_path) as (master, address, task):
        with blockbuster_ctx("apbmm_master"):
            async with FakeWorker(address, "a").at_work(), FakeWorker(address, "b").at_work():
                async with asyncio.timeout(DEADLINE):
                    assert await task == Finish("4 evaluations completed")
        assert live_snapshot(master)["evaluations"]["done"] == 4
    assert Ledger().replay(read_journal(tmp_path)) == master.ledger


async def test_another_protocol_version_is_refused_by_name_and_nobody_else_notices(
    tmp_path: Path,
) -> None:
    async with master_in_process(spec(), tmp_path) as (master, address, task):
        old = FakeWorker(address, "old")
        old.version = PROTOCOL_VERSION + 1
        async with old.at_work():
            await until("the refusal", lambda: old.heard)
            (refusal,) = old.heard
            assert isinstance(refusal, Refuse)
            expected = f"worker 'old' speaks protocol {PROTOCOL_VERSION + 1}"
            assert expected in refusal.reason
            wire = live_snapshot(master)["wire"]
            assert (wire["refused_versions"], wire["refused_frames"]) == (1, 0)
            assert expected in wire["last_refusal"]
            async with FakeWorker(address, "a").at_work():
                assert (await task) == Finish("4 evaluations completed")
    assert {a.worker for e in master.ledger.evaluations.values() for a in e.attempts} == {"a"}


def mutations(count: int, seed: int) -> list[list[bytes]]:
    """Frames that are no messages: arity, truncation, depth, NaN, size, types, pickles, noise."""
    dice = random.Random(seed)
    good = encode(Beat(run="r", lease="l", stage="merge"))[1]
    deep = b"\x81\xa1x" * 2000 + b"\x01"
    kinds: list[Callable[[], list[bytes]]] = [
        lambda: [HEADER],
        lambda: [HEADER, good, good],
        lambda: [HEADER, good[: dice.randrange(len(good))]],
        lambda: [HEADER, deep],
        lambda: [HEADER, msgpack.packb({"type": "beat", "quiet": math.nan})],
        lambda: [HEADER, msgpack.packb({"type": "beat", "done": "7"})],
        lambda: [HEADER, msgpack.packb({"type": "hello", "worker": "x" * 2000})],
        lambda: [HEADER, pickle.dumps({"type": "beat"})],
        lambda: [HEADER, dice.randbytes(dice.randrange(200))],
        lambda: [dice.randbytes(6), good],
    ]
    return [dice.choice(kinds)() for _ in range(count)]


async def test_malformed_frames_are_counted_and_disturb_nobody(tmp_path: Path) -> None:
    frames = mutations(2000, seed=1)
    async with master_in_process(spec(), tmp_path) as (master, address, task):
        stranger = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        stranger.connect(address)
        worker = FakeWorker(address, "a")
        try:
            async with worker.at_work():
                for malformed in frames:
                    await stranger.send_multipart(malformed)
                assert (await task) == Finish("4 evaluations completed")
                wire = live_snapshot(master)["wire"]
        finally:
            stranger.close(linger=0)
        # The run may have ended before the last of them was read.
        assert 0 < wire["refused_frames"] <= len(frames)
        assert wire["last_refusal"]
        assert list(master.fleet.workers) == ["a"]


async def test_a_body_over_the_limit_cuts_the_connection_and_nothing_else(tmp_path: Path) -> None:
    async with master_in_process(spec(), tmp_path) as (_, address, task):
        stranger = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        stranger.connect(address)
        try:
            await stranger.send_multipart([HEADER, b"\0" * (3 << 20)])
            async with FakeWorker(address, "a").at_work():
                assert (await task) == Finish("4 evaluations completed")
        finally:
            stranger.close(linger=0)


async def test_an_expert_that_is_worse_ends_the_run_by_name_and_keeps_everything(
    tmp_path: Path,
) -> None:
    swapped = spec(
        objectives=[
            {"name": "cost", "metric": "tokens", "expert": "thinking", "vanilla": "instruct"}
        ]
    )
    async with (
        master_in_process(swapped, tmp_path) as (_, address, task),
        FakeWorker(address, "a").at_work(),
    ):
        with pytest.raises(ReferenceScaleError, match=r"'cost'.*expert is the worse") as caught:
            await task
    assert caught.value.exit_code == EXIT_FAILED
    ledger = Ledger().replay(read_journal(tmp_path))
    assert ledger.references_done
    with Journal(tmp_path) as journal:
        again = Master(journal, swapped, "tcp://127.0.0.1:*")
        with pytest.raises(ReferenceScaleError):  # at once, without waiting for a worker
            await again.run()


async def test_a_reference_that_cannot_be_measured_ends_the_run(tmp_path: Path) -> None:
    def work(evaluation: str) -> Failed | None:
        return Failed(fault="vector", message="NaN") if evaluation == "thinking" else None

    expected = Finish("thinking could not be measured: NaN", failed=True)
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
            with pytest.raises(UsageError, match=r"cannot listen on .*in use"):
                await master.run()
            assert list(journal.records()) == []
