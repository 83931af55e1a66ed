"""Messages lost, late, twice, or from where they should not come."""

from __future__ import annotations

from typing import Any

import pytest

from apbmm_common.protocol.messages import (
    Accept,
    Assign,
    Beat,
    BeatAck,
    Bye,
    Cancel,
    Decline,
    Drain,
    Failed,
    FromMaster,
    FromWorker,
    Hello,
    HelloAgain,
    Lease,
    Measured,
    Ready,
    Refuse,
    ResultAck,
    Unfit,
    Welcome,
)
from apbmm_master.journal.events import DuplicateResult, Lost, ResultRecorded, WorkerJoined
from apbmm_master.journal.lifecycle import EvaluationState
from protocol_world import (
    DIGESTS,
    LAYERS,
    RUN,
    TIMINGS,
    Sim,
    World,
    body_of,
    measurement,
    result_of,
)


def tell(world: World, worker: Sim, message: FromWorker) -> list[FromMaster]:
    """One message, and what its worker is answered."""
    world.answers.clear()
    world.turn([(worker.identity, message)])
    return [answer for identity, answer in world.answers if identity == worker.identity]


def begun(*names: str, **changes: Any) -> tuple[World, list[Sim]]:
    world = World(**changes)
    workers = [world.join(name) for name in names]
    world.exchange()
    return world, workers


def events(world: World, kind: type) -> list[Any]:
    return [record.event for record in world.stored if isinstance(record.event, kind)]


def test_a_stranger_is_asked_for_a_hello() -> None:
    world = World()
    stranger = Sim("x", "b", b"nobody")
    assert tell(world, stranger, Beat(run=RUN)) == [HelloAgain(run=RUN)]


def test_welcome_lost() -> None:
    world = World()
    a = world.join("a")
    world.collect()
    world.turn()
    world.answers.clear()
    world.pass_time(2)
    assert a.held is not None
    assert len(events(world, WorkerJoined)) == 1


def test_ready_lost() -> None:
    world = World()
    a = world.join("a")
    world.collect()
    world.turn()
    world.deliver()
    world.on_the_way.clear()
    assert world.fleet.workers["a"].stage == "preparing"
    world.pass_time(2)
    assert a.held is not None


def test_assign_lost() -> None:
    world = World()
    a = world.join("a")
    world.collect()
    world.turn()
    world.deliver()
    world.turn()
    assert any(isinstance(answer, Assign) for _, answer in world.answers)
    world.answers.clear()
    world.pass_time(TIMINGS["resend"] + 1)
    assert a.held is not None
    assert world.run_state.evaluations["measure"].attempts[0].state == "running"


def test_accept_lost() -> None:
    world = World()
    a = world.join("a")
    for _ in range(3):
        world.on_the_way = [m for m in world.on_the_way if not isinstance(m[1], Accept)]
        world.collect()
        world.turn()
        world.deliver()
    world.on_the_way = [m for m in world.on_the_way if not isinstance(m[1], Accept)]
    assert a.held is not None
    assert world.run_state.evaluations["measure"].attempts[0].state == "leased"
    a.beat()  # which names the lease
    world.exchange()
    assert [x.state for x in world.run_state.evaluations["measure"].attempts] == ["running"]


def test_acknowledgement_lost() -> None:
    world, (a,) = begun("a")
    a.finish()
    world.collect()
    world.turn()
    world.answers.clear()
    assert a.outbox
    world.pass_time(1)
    assert not a.outbox
    assert len(events(world, ResultRecorded)) == 1
    assert events(world, DuplicateResult) == []


def test_bye_lost() -> None:
    world, (a,) = begun("a")
    a.bye()
    a.says.clear()
    world.now += TIMINGS["unreachable"] + TIMINGS["orphan_grace"]
    world.turn()
    world.turn()
    assert list(world.fleet.workers) == []
    assert world.run_state.evaluations["measure"].state is EvaluationState.QUEUED


def test_bye_frees_what_the_worker_held_at_once() -> None:
    world, (a, b) = begun("a", "b")
    a.bye()
    world.exchange()
    assert world.run_state.evaluations["measure"].state is EvaluationState.QUEUED
    b.finish()
    world.exchange()
    assert b.held is not None
    assert (b.held.evaluation, b.held.attempt) == ("measure", 2)


def test_a_worker_that_leaves_with_a_result_in_its_outbox_is_waited_for() -> None:
    world, (a, _) = begun("a", "b")
    a.finish()
    a.says.clear()
    a.bye()
    world.exchange()
    assert world.run_state.evaluations["measure"].state is EvaluationState.ACTIVE
    world.join("a")
    world.settle()
    assert [x.state for x in world.run_state.evaluations["measure"].attempts] == ["done"]


def test_hello_twice_and_overtaken() -> None:
    world, (a,) = begun("a")
    late = Hello(worker="a", boot=a.boot, number=1, gpu="0", host="h", pid=1, versions={})
    answers = tell(world, a, late)
    assert [type(answer) for answer in answers] == [Welcome]
    assert isinstance(answers[0], Welcome)
    assert a.held is not None
    assert answers[0].keep == (a.held.lease,)
    assert world.fleet.workers["a"].stage == "ready"
    a.hello()
    world.exchange()
    assert tell(world, a, late) == []
    assert [x.state for x in world.run_state.evaluations["measure"].attempts] == ["running"]


def test_a_lease_that_its_worker_no_longer_holds_is_queued_again() -> None:
    world, (a,) = begun("a")
    a.held = None
    a.hello()
    world.exchange()
    assert events(world, Lost)[0].reason == "a no longer holds it"


def test_a_result_that_is_announced_is_waited_for() -> None:
    world, (a,) = begun("a")
    a.finish()
    a.says.clear()
    a.hello()
    world.collect()
    world.turn()
    assert events(world, Lost) == []
    world.deliver()
    a.beat()
    world.exchange()
    assert len(events(world, ResultRecorded)) == 1


def test_the_later_boot_of_a_name_wins_and_the_earlier_is_fenced_off_for_good() -> None:
    world, (first,) = begun("a")
    second = world.join("a")
    first.alive = True  # it only seemed to be dead
    world.exchange()
    assert not first.alive
    assert "later process took the name a" in first.refused
    assert second.held is not None
    world.restart()
    first.alive, first.refused = True, ""
    first.hello()
    world.exchange()
    assert first.refused, "not even a new master lets it in again"


@pytest.mark.parametrize("host", ["h", "h2"])
def test_two_hosts_with_one_workers_name_are_told_of_each_other(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that is started again on its own host and card is no reason to warn."""
    world, (first,) = begun("a")
    world.join("a")
    first.alive = True
    second = world.workers[-1]
    second.says = [each.model_copy(update={"host": host}) for each in second.says]
    world.exchange()
    assert first.refused == f"a later process took the name a, on {host} (0)"
    warned = "worker a on h (0) is ended, for a later one on h2 (0) has its name" in caplog.text
    assert warned is (host == "h2")


def test_a_late_result_of_a_lost_attempt_wins_and_the_rival_is_cancelled() -> None:
    world, (a, b) = begun("a", "b")
    kept = a.held
    assert kept is not None
    world.pass_time(TIMINGS["unreachable"] + TIMINGS["orphan_grace"] + 3, silent=[a])
    b.finish()
    world.exchange()
    rival = b.held
    assert rival is not None
    assert (rival.evaluation, rival.attempt) == ("measure", 2)
    a.hello()
    world.exchange()
    a.finish()
    world.exchange()
    states = [x.state for x in world.run_state.evaluations["measure"].attempts]
    assert states == ["done", "lost"]
    assert b.held is None or b.held.lease != rival.lease, "b is spared the rest"
    # Had b finished in the meantime, its result would be logged.
    tell(world, b, result_of(rival, body_of(rival)))
    (duplicate,) = events(world, DuplicateResult)
    assert duplicate.lease == rival.lease
    assert len(events(world, ResultRecorded)) == 2


def test_a_lost_cancel_is_repeated_at_the_next_beat() -> None:
    world, (a, b) = begun("a", "b")
    world.pass_time(TIMINGS["unreachable"] + TIMINGS["orphan_grace"] + 3, silent=[a])
    b.finish()
    world.exchange()
    a.hello()
    world.exchange()
    assert b.held is not None
    assert (b.held.evaluation, b.held.attempt) == ("measure", 2)
    a.finish()
    world.collect()
    world.turn()
    assert any(isinstance(answer, Cancel) for _, answer in world.answers)
    world.answers = [pair for pair in world.answers if not isinstance(pair[1], Cancel)]
    world.deliver()
    assert b.held is not None
    assert (b.held.evaluation, b.held.attempt) == ("measure", 2)
    world.pass_time(3)
    assert b.held is None or b.held.evaluation != "measure"


def test_a_lost_lease_is_not_leased_again_while_its_worker_is_back_with_it() -> None:
    world, (a,) = begun("a")
    world.now += TIMINGS["unreachable"] + TIMINGS["orphan_grace"]
    world.turn()
    assert world.run_state.evaluations["measure"].state is EvaluationState.QUEUED
    world.pass_time(3)
    b = world.join("b")
    world.pass_time(3)
    assert b.held is not None
    assert b.held.evaluation != "measure"
    a.finish()
    world.exchange()
    assert [x.state for x in world.run_state.evaluations["measure"].attempts] == ["done"]


def test_a_success_after_the_vector_was_given_up_is_logged() -> None:
    world, (a, b) = begun("a", "b")
    while a.held is None or a.held.evaluation != "e0001":
        for worker in (a, b):
            if worker.held is not None and worker.held.evaluation != "e0001":
                worker.finish()
                world.exchange()
        if b.held is not None and b.held.evaluation == "e0001":
            a, b = b, a
    first = a.held
    a.finish(Failed(fault="vector", message="x"))
    world.exchange()
    for _ in range(9):
        for worker in (a, b):
            if worker.held is not None:
                again = worker.held.evaluation == "e0001"
                worker.finish(Failed(fault="vector", message="y") if again else None)
                world.exchange()
    assert world.run_state.evaluations["e0001"].state is EvaluationState.FAILED
    tell(world, a, result_of(first, measurement()))
    assert [event.evaluation for event in events(world, DuplicateResult)] == ["e0001"]


UNSOUND = {
    "another kind": measurement(),
    "layers left out": Measured(parameter=(1.0,), activation=(1.0,), prompts=1),
}


@pytest.mark.parametrize("body", UNSOUND.values(), ids=UNSOUND.keys())
def test_a_result_that_cannot_be_right_is_the_workers_fault(body: Any) -> None:
    world, (a,) = begun("a")
    assert a.held is not None
    lease = a.held.lease
    answers = tell(world, a, result_of(a.held, body))
    assert ResultAck(run=RUN, lease=lease) in answers
    (attempt, *_) = world.run_state.evaluations["measure"].attempts
    assert (attempt.state, attempt.fault) == ("failed", "infrastructure")


def test_a_result_with_a_wrong_digest_is_not_recorded() -> None:
    world, (a,) = begun("a")
    assert a.held is not None
    good = result_of(a.held, body_of(a.held))
    tell(world, a, good.model_copy(update={"digest": "0" * 64}))
    assert events(world, ResultRecorded) == []
    assert "digest" in world.run_state.evaluations["measure"].attempts[0].message


def test_a_result_of_an_unknown_lease_blocks_nobody() -> None:
    world, (a,) = begun("a")
    assert a.held is not None
    foreign = result_of(a.held.model_copy(update={"lease": "e9999.1"}), measurement())
    answers = tell(world, a, foreign)
    assert Cancel(run=RUN, lease="e9999.1", unknown=True) in answers
    assert ResultAck(run=RUN, lease="e9999.1") not in answers
    lease = Lease(run=RUN, evaluation="e9999", attempt=1, lease="e9999.1")
    b = Sim("b", "bootb", b"idb")
    hello = Hello(worker="b", boot="bootb", gpu="0", host="h", pid=1, versions={},
                  unacknowledged=(lease,))  # fmt: skip
    tell(world, b, hello)
    tell(world, b, Ready(run=RUN, layers=LAYERS, digests=DIGESTS, versions={}))
    assert any(name == "b" for _, x in world.run_state.active_attempts() for name in [x.worker])


def test_messages_of_another_run_change_nothing() -> None:
    world = World()
    a = world.join("a")
    world.collect()
    world.turn()
    tell(world, a, Ready(run="other-1", layers=9, digests={"x": "y"}, versions={}))
    assert world.run_state.digests == {}
    assert world.run_state.layers == 0


def test_a_worker_that_comes_from_another_run_works_once_it_is_ready() -> None:
    world = World()
    a = Sim("a", "boot", b"id")
    lease = Lease(run="other-1", evaluation="thinking", attempt=1, lease="thinking.1")
    hello = Hello(worker="a", boot="boot", gpu="0", host="h", pid=1, versions={}, held=(lease,))
    (welcome,) = tell(world, a, hello)
    assert isinstance(welcome, Welcome)
    assert welcome.abandon == ()
    assert world.fleet.workers["a"].foreign
    answers = tell(world, a, Ready(run=RUN, layers=LAYERS, digests=DIGESTS, versions={}))
    assert any(isinstance(answer, Assign) for answer in answers)


def test_other_sources_are_refused_by_role() -> None:
    world, _ = begun("a")
    b = world.join("b")
    world.collect()
    world.turn()
    other = Ready(run=RUN, layers=LAYERS, digests={"rehearsal": "other"}, versions={})
    (refusal,) = tell(world, b, other)
    assert isinstance(refusal, Refuse)
    assert "its rehearsal differ from the run's" in refusal.reason
    assert not refusal.final
    assert "differ" in world.fleet.workers["b"].unfit
    assert tell(world, b, Beat(run=RUN)) == [BeatAck(run=RUN, epoch=1, stage="unfit")]
    tell(world, b, Ready(run=RUN, layers=LAYERS, digests=DIGESTS, versions={}))
    assert world.fleet.workers["b"].stage == "ready"


def test_an_unfit_host_is_named_and_gets_nothing() -> None:
    world = World()
    a = world.join("a")
    world.collect()
    world.turn()
    tell(world, a, Unfit(run=RUN, message="/models/thinking: no such folder"))
    assert world.fleet.workers["a"].unfit == "/models/thinking: no such folder"
    assert not world.fleet.workers["a"].may_work


def test_a_decliner_is_not_asked_again_before_its_next_beat_and_not_for_ever() -> None:
    world = World()
    a = Sim("a", "boot", b"id")
    a.hello()
    tell(world, a, a.says.pop())
    answers = tell(world, a, Ready(run=RUN, layers=LAYERS, digests=DIGESTS, versions={}))
    leases = []
    for _ in range(9):
        assigns = [x.lease for x in answers if isinstance(x, Assign)]
        if not assigns:
            break
        leases += assigns
        answers = tell(world, a, Decline(run=RUN, lease=assigns[0], reason="no"))
        assert not any(isinstance(answer, Assign) for answer in answers)
        answers = tell(world, a, Beat(run=RUN))
    assert [lease.rpartition(".")[0] for lease in leases] == [f"measure.{n}" for n in range(1, 6)]
    assert world.fleet.workers["a"].quarantined == "declines its leases: no"


def test_a_draining_worker_is_left_alone() -> None:
    world, (a,) = begun("a")
    tell(world, a, Drain(run=RUN))
    a.finish()
    world.exchange()
    assert a.held is None
    a.says.append(Bye(run=RUN, reason="stopped"))
    world.exchange()
    assert list(world.fleet.workers) == []


def test_a_hello_that_an_acceptance_overtook_takes_nothing_away() -> None:
    """The worker said it before it held the lease."""
    world = World()
    a = world.join("a")
    world.exchange()
    assert a.held is not None
    early = Hello(
        worker="a", boot=a.boot, number=a.hellos + 1, gpu="0", host="h", pid=1, versions={}
    )
    a.hellos += 1
    tell(world, a, Beat(run=RUN, lease=a.held.lease, hello=a.hellos))
    (answer,) = tell(world, a, early)
    assert isinstance(answer, Welcome)
    assert events(world, Lost) == []
    assert world.fleet.workers["a"].held == {a.held.lease}
