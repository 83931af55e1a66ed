"""Answers of unfinished evaluations: stored once, given to the next attempt, deleted at the end."""

from __future__ import annotations

from typing import Any

import pytest

from apbmm_common.protocol.messages import (
    FULL_BYTES,
    Answers,
    AnswersAck,
    AnswersWanted,
    Failed,
    FromMaster,
    FromWorker,
    KeptAnswer,
    KeptAnswers,
)
from apbmm_master.journal.events import Leased
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.storage.answer_tables import Kept
from apbmm_master.status.snapshot import journal_snapshot
from protocol_world import PROMPTS, RUN, Sim, World, answer_of, outcome_of

KEYS = list(PROMPTS)


def tell(world: World, worker: Sim, *messages: FromWorker) -> list[FromMaster]:
    """What a worker is answered to messages that arrive in one turn."""
    world.answers.clear()
    world.turn([(worker.identity, message) for message in messages])
    return [answer for identity, answer in world.answers if identity == worker.identity]


def at_work(*names: str, **changes: Any) -> tuple[World, list[Sim]]:
    """A world in which the first worker evaluates a reference."""
    world = World(**changes)
    workers = [world.join(name) for name in names]
    world.exchange()
    workers[0].finish()
    world.exchange()
    assert workers[0].held is not None
    return world, workers


def batch(worker: Sim, *keys: str, first: int = 0, lease: str = "") -> Answers:
    held = worker.held
    assert held is not None
    return Answers(
        run=RUN,
        lease=lease or held.lease,
        first=first,
        answers=tuple(answer_of(held.vector, key) for key in keys),
        outcomes=tuple(outcome_of(key) for key in keys),
    )


def acks(answers: list[FromMaster]) -> list[int]:
    return [answer.upto for answer in answers if isinstance(answer, AnswersAck)]


def keys_of(world: World, evaluation: str) -> list[str]:
    return [answer.key for answer in world.kept(evaluation)]


def test_answers_are_stored_before_they_are_acknowledged() -> None:
    world, (a,) = at_work("a")
    assert a.held is not None
    name = a.held.evaluation
    assert acks(tell(world, a, batch(a, *KEYS[:2]))) == [4]
    assert keys_of(world, name) == KEYS[:2]
    assert acks(tell(world, a, batch(a, KEYS[3], first=4))) == [6]
    assert world.tables.of(name) == Kept(3, 3)


def test_repeated_reordered_and_overlapping_answers_are_stored_once() -> None:
    world, (a,) = at_work("a")
    assert a.held is not None
    one, two = batch(a, *KEYS[:3]), batch(a, *KEYS[2:5], first=6)
    assert acks(tell(world, a, two, one, two, one)) == [12, 6, 12, 6]
    assert sorted(keys_of(world, a.held.evaluation)) == sorted(KEYS[:5])
    assert world.tables.of(a.held.evaluation) == Kept(5, 5)


def test_where_the_disk_refuses_nothing_is_acknowledged_and_the_repetition_is_stored() -> None:
    world, (a,) = at_work("a")
    assert a.held is not None
    a.answer(2)
    a.beat()
    world.collect()
    world.fails_to_commit = True
    world.turn()
    assert not [answer for _, answer in world.answers if isinstance(answer, AnswersAck)]
    assert keys_of(world, a.held.evaluation) == []
    world.fails_to_commit = False
    world.pass_time(3)
    assert keys_of(world, a.held.evaluation) == KEYS[:2]
    assert a.flying is None


def test_where_the_acknowledgement_is_lost_the_message_comes_again_and_the_next_follows() -> None:
    world, (a,) = at_work("a")
    assert a.held is not None
    name = a.held.evaluation
    a.answer(2)
    a.beat()
    world.collect()
    world.turn()
    world.answers.clear()
    a.answer(1)
    world.pass_time(1)
    assert a.acknowledged == 4
    world.pass_time(1)
    assert a.acknowledged == 6
    assert keys_of(world, name) == KEYS[:3]


@pytest.mark.parametrize("loss", ["killed", "left", "engine", "infrastructure", "master"])
def test_the_next_attempt_asks_only_the_rest(loss: str) -> None:
    world, (a,) = at_work("a")
    assert a.held is not None
    lease, vector = a.held.lease, a.held.vector
    name = a.held.evaluation
    a.answer(4)
    a.beat()
    world.exchange()
    a.answer(1)  # in flight: nobody but the worker has it
    match loss:
        case "killed":
            a.says.clear()
        case "left":
            a.bye()
            world.exchange()
        case "master":
            world.restart()
            a.says.clear()
        case fault:
            a.finish(Failed.model_validate({"fault": fault, "message": "made up"}))
            world.exchange()
    again = a if loss in ("engine", "infrastructure") else world.join("a")
    world.pass_time(4)
    assert again.held is not None
    assert (again.held.evaluation, again.held.attempt) == (name, 2)
    delivered = 5 if loss == "left" else 4
    assert again.held.kept == delivered
    status = journal_snapshot(world.run_state, kept=world.tables.all)
    assert {"id": name, "state": "active", "answers": delivered, "outcomes": delivered} in status[
        "kept"
    ]
    assert [row["taken"] for row in status["running"] if row["id"] == name] == [delivered]
    assert [e.event.kept for e in world.stored if isinstance(e.event, Leased)][-1] == delivered
    again.finish()
    world.exchange()
    evaluation = world.run_state.evaluations[name]
    second = evaluation.attempts[1].lease
    assert again.asked[second] == KEYS[delivered:]
    assert a.asked[lease] == KEYS[:5]
    assert evaluation.state is EvaluationState.DONE
    assert evaluation.vector == vector
    assert world.tables.all == {}


def test_a_result_and_answers_of_one_turn_leave_nothing_behind() -> None:
    world, (a,) = at_work("a")
    assert a.held is not None
    late = batch(a, *KEYS)
    a.finish()
    (result,) = a.outbox.values()
    assert acks(tell(world, a, late, result)) == [12]
    assert world.tables.all == {}
    assert acks(tell(world, a, late)) == [12], "of no use, and not to be repeated"
    assert world.tables.all == {}


def test_an_attempt_that_was_given_up_still_delivers() -> None:
    world, (a, b) = at_work("a", "b")
    assert a.held is not None
    name, late = a.held.evaluation, batch(a, *KEYS[:2])
    world.pass_time(60, silent=[a])
    assert b.held is not None
    while b.held.evaluation != name:
        b.finish()
        world.pass_time(2, silent=[a])
    assert acks(tell(world, b, late)) == [4]
    assert keys_of(world, name) == KEYS[:2]


@pytest.mark.parametrize("fault", ["vector", "run_file"])
def test_answers_of_an_attempt_that_blames_the_merge_or_the_data_are_not_used(fault: str) -> None:
    world, (a, _) = at_work("a", "b")
    assert a.held is not None
    name, late = a.held.evaluation, batch(a, KEYS[5])
    a.answer(3)
    a.beat()
    world.exchange()
    assert len(keys_of(world, name)) == 3
    a.finish(Failed.model_validate({"fault": fault, "message": "made up"}))
    world.exchange()
    assert keys_of(world, name) == []
    assert acks(tell(world, a, late)) == [2]
    assert keys_of(world, name) == []


def test_answers_of_an_unknown_lease_are_acknowledged_and_dropped() -> None:
    world, (a,) = at_work("a")
    assert acks(tell(world, a, batch(a, KEYS[0], lease="e9999.1.x"))) == [2]
    assert world.tables.all == {}
    (given,) = tell(world, a, AnswersWanted(run=RUN, lease="e9999.1.x"))
    assert given == KeptAnswers(run=RUN, lease="e9999.1.x", after=0, total=0)


def test_kept_answers_come_in_pages_that_fit_into_a_message() -> None:
    world, (a,) = at_work("a")
    assert a.held is not None
    lease = a.held.lease
    large = [
        KeptAnswer(key=f"{number:064x}", packed=bytes([number]) * (FULL_BYTES // 3))
        for number in range(1, 6)
    ]
    alone = KeptAnswer(key="f" * 64, packed=b"x" * 2 * FULL_BYTES)
    for number, answer in enumerate([*large[:4], alone, large[4]]):
        tell(world, a, Answers(run=RUN, lease=lease, first=number, answers=(answer,)))
    pages: list[list[KeptAnswer]] = []
    while not pages or pages[-1]:
        after = sum(map(len, pages))
        (given,) = tell(world, a, AnswersWanted(run=RUN, lease=lease, after=after))
        assert isinstance(given, KeptAnswers)
        assert given.total == 6
        pages.append(list(given.answers))
    assert pages == [large[:3], large[3:4], [alone], large[4:], []]


def test_a_master_that_is_started_anew_has_what_was_acknowledged() -> None:
    world, (a,) = at_work("a")
    assert a.held is not None
    tell(world, a, batch(a, *KEYS[:2]))
    world.restart()
    assert keys_of(world, a.held.evaluation) == KEYS[:2]
