"""A connection belongs to one key, and a key that is shut out takes its worker along."""

from __future__ import annotations

from typing import Any

import pytest

from apbmm_common.protocol.messages import Accept, Assign, Beat, Bye, Drain, Hello
from apbmm_master.journal.events import Lost, WorkerJoined, WorkerLeft
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.wire.refusals import NotAllowedError, Refusals
from protocol_world import RUN, Sim, World


def joined(world: World, name: str, key: str) -> Sim:
    """A worker that came in with a key."""
    worker = world.join(name)
    (hello,) = worker.says
    worker.says.clear()
    world.handlers.handle(worker.identity, hello, world.now, key)
    world.commit()
    world.answers.clear()
    return worker


def events(world: World, kind: type) -> list[Any]:
    return [record.event for record in world.stored if isinstance(record.event, kind)]


@pytest.mark.parametrize("message", [Beat(run=RUN), Accept(run=RUN, lease="l"), Drain(), Bye()])
def test_no_key_speaks_on_anothers_connection(message: Any) -> None:
    world = World()
    worker = joined(world, "a", "key of a")
    heard = world.fleet.workers["a"].heard
    for key in ("key of b", ""):
        with pytest.raises(NotAllowedError, match="the connection of worker a is another key's"):
            world.handlers.handle(worker.identity, message, world.now + 5, key)
    assert world.fleet.workers["a"].heard == heard
    assert not world.fleet.workers["a"].draining
    world.handlers.handle(worker.identity, message, world.now + 5, "key of a")


def test_whoever_is_shut_out_leaves_and_its_lease_is_queued_again() -> None:
    world = World()
    workers = [world.join(name) for name in ("a", "b")]
    world.exchange()
    held = {w.name: w.held for w in workers}
    assert isinstance(held["a"], Assign)
    world.handlers.remove_refused(lambda _, name: name != "a")
    world.commit()
    assert list(world.fleet.workers) == ["b"]
    (left,) = events(world, WorkerLeft)
    assert (left.worker, left.reason, left.final) == ("a", "its key was revoked", False)
    (lost,) = events(world, Lost)
    assert lost.lease == held["a"].lease
    assert world.run_state.evaluations[held["a"].evaluation].state is EvaluationState.QUEUED


def test_who_may_stay_is_asked_by_key_and_name() -> None:
    world = World()
    joined(world, "a", "key of a")
    asked = []

    def stays(key: str, name: str) -> bool:
        asked.append((key, name))
        return True

    world.handlers.remove_refused(stays)
    assert asked == [("key of a", "a")]
    assert list(world.fleet.workers) == ["a"]


def test_a_worker_that_is_let_in_again_comes_back_as_it_was() -> None:
    world = World()
    worker = joined(world, "a", "key")
    world.handlers.remove_refused(lambda *_: False)
    world.commit()
    worker.hello()
    hello = worker.says[-1]
    assert isinstance(hello, Hello)
    world.handlers.handle(worker.identity, hello, world.now, "key")
    world.commit()
    assert world.fleet.workers["a"].boot == worker.boot
    assert [e.worker for e in events(world, WorkerJoined)] == ["a", "a"]


def test_refusals_are_counted_each_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for _ in range(50):
        refusals.note("keys", "the key of worker a was revoked", "make a new one")
        refusals.note("frames", "not MessagePack")
    assert refusals.as_status() == {
        "refused_frames": 50, "refused_versions": 0, "refused_keys": 50,
        "refused_connections": 0, "last_refusal": "not MessagePack",
    }  # fmt: skip
    assert [record.getMessage() for record in caplog.records] == [
        "refused: the key of worker a was revoked (hint: make a new one)",
        "refused: not MessagePack",
    ]
