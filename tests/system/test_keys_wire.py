"""A master with keys on a real socket: whom it lets in, whom not, and what it says to either."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from apbmm_common.protocol import curve_keys
from apbmm_common.protocol.codec import encode
from apbmm_common.protocol.curve_keys import ClientKeys, MasterKeys
from apbmm_common.protocol.messages import BeatAck, Bye, Refuse, Welcome
from apbmm_common.protocol.status_requests import NoMasterError, ask
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import read_journal
from apbmm_master.master import Master
from apbmm_master.status.snapshot import live_snapshot
from apbmm_master.status.sockets import StatusSocket
from commands import DEADLINE
from fake_peers import FakeWorker, master_in_process, until, worker_socket
from free_ports import free_port
from protocol_world import world_spec

pytestmark = pytest.mark.slow

TIMINGS = {"beat": 0.2, "suspect": 20.0, "unreachable": 40.0, "resend": 0.5}


@pytest.fixture
def keys(tmp_path: Path) -> MasterKeys:
    return curve_keys.new_master(tmp_path / "keys")


def key_of(keys: MasterKeys, name: str) -> ClientKeys:
    """Let a worker in, and its key."""
    curve_keys.new_worker(keys, name)
    found = curve_keys.worker_keys(str(keys.folder), name)
    assert found is not None
    return found


def spec(**changes: Any) -> Any:
    return world_spec(timings=TIMINGS, **changes)


def wire(master: Master) -> dict[str, Any]:
    counts: dict[str, Any] = live_snapshot(master)["wire"]
    return counts


async def test_workers_with_keys_come_in(tmp_path: Path, keys: MasterKeys) -> None:
    mine = {name: key_of(keys, name) for name in ("a", "b")}
    async with master_in_process(spec(), tmp_path, keys) as (master, address, _):
        a, b = (FakeWorker(address, name, keys=key) for name, key in mine.items())
        async with a.at_work(), b.at_work():
            await measured(master)
        assert live_snapshot(master)["security"] == "curve"
        assert wire(master)["refused_connections"] == 0


async def measured(master: Master) -> None:
    """Wait until work has been done: both references."""
    await until("the references", lambda: master.run_state.references_done)


async def shut_out(
    tmp_path: Path,
    keys: MasterKeys,
    wrong: ClientKeys | None,
    caplog: pytest.LogCaptureFixture,
) -> str:
    """Try to talk to a master that does not let ``wrong`` in; why, in the master's words.

    Nothing that the stranger sends reaches the master's inbox, nothing of the master's reaches
    the stranger, and the run goes on with somebody who is let in.
    """
    right = key_of(keys, "right")
    async with master_in_process(spec(), tmp_path, keys) as (master, address, _):
        async with worker_socket(address, wrong) as stranger:
            await until("a refusal", lambda: wire(master)["refused_connections"])
            reason = str(wire(master)["last_refusal"])
            await until("its reason at the worker", lambda: "not connected to" in caplog.text)
            await stranger.send(encode(BeatAck(epoch=1, stage="ready")))  # no worker's message
            async with FakeWorker(address, "right", keys=right).at_work():
                await measured(master)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stranger.receive(), 0.1)
        assert wire(master)["refused_frames"] == wire(master)["refused_keys"] == 0
        assert list(master.fleet.workers) == ["right"]
    return reason


async def test_a_worker_without_a_key_is_shut_out(
    tmp_path: Path, keys: MasterKeys, caplog: pytest.LogCaptureFixture
) -> None:
    reason = await shut_out(tmp_path, keys, None, caplog)
    assert reason in {
        "a connection without a key", "a connection that its other end broke off",
    }  # fmt: skip
    assert "--keys" in caplog.text


async def test_a_strangers_key_is_shut_out(
    tmp_path: Path, keys: MasterKeys, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = curve_keys.new_master(tmp_path / "elsewhere")
    stranger = key_of(elsewhere, "right")
    wrong = ClientKeys(stranger.folder, stranger.pair, keys.pair.public)
    reason = await shut_out(tmp_path, keys, wrong, caplog)
    public = stranger.pair.public.decode()
    assert reason == f"a connection from 127.0.0.1: the key {public[:8]}... is not allowed"
    assert "the master does not allow this worker's key" in caplog.text


async def test_a_worker_of_another_master_is_shut_out(
    tmp_path: Path, keys: MasterKeys, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = curve_keys.new_master(tmp_path / "elsewhere")
    known = key_of(keys, "known")
    wrong = ClientKeys(known.folder, known.pair, elsewhere.pair.public)
    reason = await shut_out(tmp_path, keys, wrong, caplog)
    assert reason == "a connection made for a master with another key"
    assert "it has proved who it is: another master, or one" in caplog.text


async def test_the_masters_own_key_is_no_workers(
    tmp_path: Path, keys: MasterKeys, caplog: pytest.LogCaptureFixture
) -> None:
    own = curve_keys.reader_keys(str(keys.folder))
    assert own is not None
    assert own.pair == keys.pair
    reason = await shut_out(tmp_path, keys, own, caplog)
    assert "is not allowed" in reason


async def test_a_key_meets_a_master_without(
    tmp_path: Path, keys: MasterKeys, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        master_in_process(spec(), tmp_path) as (master, address, _),
        worker_socket(address, key_of(keys, "a")),
    ):
        await until("both reasons", lambda: wire(master)["refused_connections"])
        await until("the reason at the worker", lambda: "not connected to" in caplog.text)
        assert live_snapshot(master)["security"] == "local"


async def test_a_key_that_is_let_in_later_comes_in(tmp_path: Path, keys: MasterKeys) -> None:
    late = key_of(keys, "late")
    certificate = keys.allowed / "late.key"
    aside = certificate.rename(tmp_path / "aside")
    async with (
        master_in_process(spec(), tmp_path, keys) as (master, address, _),
        worker_socket(address, late) as worker,
    ):
        await until("a refusal", lambda: wire(master)["refused_connections"])
        aside.rename(certificate)
        fake = FakeWorker(address, "late")
        fake.sim.hello()
        async with asyncio.timeout(DEADLINE):
            while "late" not in master.fleet.workers:
                await worker.send(encode(fake.sim.says[0]))
                await asyncio.sleep(0.1)


async def test_a_name_belongs_to_its_key(tmp_path: Path, keys: MasterKeys) -> None:
    a, b = key_of(keys, "a"), key_of(keys, "b")
    async with master_in_process(spec(), tmp_path, keys) as (master, address, _):
        thief = FakeWorker(address, "a", keys=b)
        async with thief.at_work():
            await until("the refusal", lambda: thief.heard)
            assert isinstance(thief.heard[0], Refuse)
            assert thief.heard[0].reason == "the key is worker b's, and not a's"
            assert thief.heard[0].hint.startswith("start it with --name b")
            assert wire(master)["refused_keys"] >= 1
            assert wire(master)["last_refusal"] == thief.heard[0].reason
            assert not master.fleet.workers
            honest = FakeWorker(address, "a", keys=a)
            async with honest.at_work():
                await measured(master)
        assert master.fleet.workers["a"].boot == honest.sim.boot
        assert not any(isinstance(message, Welcome) for message in thief.heard)


async def test_nobody_takes_anothers_route(tmp_path: Path, keys: MasterKeys) -> None:
    """Who claims the identity of a living connection gets none of its messages."""
    a, b = key_of(keys, "a"), key_of(keys, "b")
    async with master_in_process(spec(), tmp_path, keys) as (master, address, _):
        honest = FakeWorker(address, "a", keys=a)
        async with honest.at_work():
            await until("the worker", lambda: master.fleet.workers)
            thief = FakeWorker(address, "b", keys=b)
            thief.identity = master.fleet.workers["a"].identity
            async with thief.at_work():
                await measured(master)
        assert not thief.heard
        assert list(master.fleet.workers) == ["a"]


async def test_revoking_cuts_off_the_next_message(tmp_path: Path, keys: MasterKeys) -> None:
    """The key goes while its worker holds a lease: what it says from there on is not taken."""
    mine = {name: key_of(keys, name) for name in ("a", "b")}

    def work(evaluation: str) -> None:
        if evaluation == "thinking":
            curve_keys.revoke(keys, "a")

    async with master_in_process(spec(), tmp_path, keys) as (master, address, _):
        revoked = FakeWorker(address, "a", work, keys=mine["a"])
        async with revoked.at_work():
            await until("the refusal", lambda: any(isinstance(m, Refuse) for m in revoked.heard))
            refusal = next(m for m in revoked.heard if isinstance(m, Refuse))
            assert (refusal.reason, refusal.final) == ("the key of worker a was revoked", False)
            assert "apbmm keys new-worker a" in refusal.hint
            assert wire(master)["last_refusal"] == refusal.reason
            assert wire(master)["refused_keys"] >= 1
            await until("its absence", lambda: not master.fleet.workers)
            async with FakeWorker(address, "b", keys=mine["b"]).at_work():
                await measured(master)
    first, second = RunState().replay(read_journal(tmp_path)).evaluations["thinking"].attempts
    assert (first.worker, first.state, first.message) == ("a", "lost", "a: its key was revoked")
    assert (second.worker, second.state) == ("b", "done")


async def test_a_key_that_is_replaced_is_worth_nothing(tmp_path: Path, keys: MasterKeys) -> None:
    """Another key under the same name, written over the first: the file's folder stays as it is."""
    old, other = key_of(keys, "a"), key_of(curve_keys.new_master(tmp_path / "elsewhere"), "a")
    new = ClientKeys(keys.folder, other.pair, keys.pair.public)
    async with master_in_process(spec(), tmp_path, keys) as (master, address, _):
        worker = FakeWorker(address, "a", keys=old)
        async with worker.at_work():
            await until("the worker", lambda: master.fleet.workers)
            certificate = tmp_path / "elsewhere" / "allowed" / "a.key"
            (keys.allowed / "a.key").write_bytes(certificate.read_bytes())
            await until("the refusal", lambda: any(isinstance(m, Refuse) for m in worker.heard))
            again = FakeWorker(address, "a", keys=new)
            async with again.at_work():
                await until("the new key", lambda: master.fleet.boot_of("a") == again.sim.boot)


async def nothing_but_status(address: str, keys: ClientKeys, master: Master) -> None:
    """The status socket reads: whatever else is asked changes nothing, and gets an error."""
    before = master.run_state.seq
    with zmq.asyncio.Context.instance().socket(zmq.DEALER) as asker:
        asker.set(zmq.LINGER, 0)
        keys.secure(asker)
        asker.connect(address)
        for request in ([b"stop"], [b""], encode(Bye()), [b"", b"status", b"x"], [b"{" * 4000]):
            await asker.send_multipart(request)
            *_, answer = await asyncio.wait_for(asker.recv_multipart(), DEADLINE)
            assert json.loads(answer)["error"] == "unknown request"
        await asker.send(b"x" * 5000)  # more than it takes: the connection is cut
        assert (await asyncio.to_thread(ask, address, keys))["run"] == master.run_state.run
    assert (master.run_state.seq, master.draining) == (before, False)


async def test_the_status_is_for_whoever_has_a_key(
    tmp_path: Path, keys: MasterKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = key_of(keys, "a")
    address = f"tcp://127.0.0.1:{free_port()}"
    async with master_in_process(spec(), tmp_path, keys) as (master, _, _task):
        status = StatusSocket(
            tmp_path, lambda: live_snapshot(master), master.authenticator, address
        )
        answering = asyncio.create_task(status.serve())
        try:
            own = curve_keys.reader_keys(str(keys.folder))
            for reader in (a, own):
                assert (await asyncio.to_thread(ask, address, reader))["security"] == "curve"
            local = json.loads((tmp_path / "status.json").read_text())["status"]
            assert (await asyncio.to_thread(ask, local))["run"] == master.run_state.run
            await nothing_but_status(address, a, master)
            stranger = key_of(curve_keys.new_master(tmp_path / "elsewhere"), "a")
            monkeypatch.setattr("apbmm_common.protocol.status_requests.ANSWER_SECONDS", 0.5)
            for reader in (None, ClientKeys(keys.folder, stranger.pair, keys.pair.public)):
                with pytest.raises(NoMasterError, match="no master answers") as caught:
                    await asyncio.to_thread(ask, address, reader)
                assert "--keys" in caught.value.hint
            await until("the count", lambda: wire(master)["refused_connections"] >= 2)
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            status.close()
