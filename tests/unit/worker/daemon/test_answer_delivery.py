"""Answers on their way to a master that may be slow, deaf or forgetful."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apbmm_common.protocol.answers import Answer, pack
from apbmm_common.protocol.codec import encode
from apbmm_common.protocol.messages import (
    FULL_BYTES,
    MOST_ENTRIES,
    MOST_PACKED_BYTES,
    Answers,
    AnswersAck,
    AnswersWanted,
    Assign,
    FromWorker,
    KeptAnswer,
    KeptAnswers,
    Result,
    ScoredOutcome,
    Stepped,
)
from apbmm_common.run_file import RunSpec
from apbmm_worker.child_protocol import NewAnswers, StageProgress
from apbmm_worker.daemon.answer_delivery import (
    FETCH_ATTEMPTS,
    MOST_LEASES,
    SETTLE_REPEATS,
    AnswerDelivery,
    AnswerQueue,
)
from apbmm_worker.daemon.lease_runner import LeaseRunner
from apbmm_worker.daemon.outbox import Outbox
from message_examples import STEPPED
from rehearsal_runs import run_spec

RUN = "run-1"
RESEND = 0.3
SPEC = run_spec(timings={"beat": 0.01, "resend": RESEND})


def answer(number: int, size: int = 20) -> KeptAnswer:
    packed = random.Random(number).randbytes(size)
    return KeptAnswer(key=f"{number:064x}", packed=packed)


def outcome(number: int) -> ScoredOutcome:
    return ScoredOutcome(
        benchmark="b", question=f"q{number}", score=1.0, tokens=3, finish_reason="stop"
    )


def assigned(evaluation: str = "e0001", kept: int = 0, attempt: int = 1) -> Assign:
    return Assign(
        run=RUN, evaluation=evaluation, attempt=attempt, lease=f"{evaluation}.{attempt}",
        work="evaluate", config="c", kept=kept,
    )  # fmt: skip


@dataclass
class Joined:
    run: str = RUN
    spec: RunSpec | None = SPEC
    ready: Any = None


@dataclass
class FakeMaster:
    """Stores answers as the real one does; ``deaf`` to so many messages first."""

    deaf: int = 0
    kept: list[KeptAnswer] = field(default_factory=list)
    entries: list[KeptAnswer | ScoredOutcome] = field(default_factory=list)
    heard: list[FromWorker] = field(default_factory=list)
    delivery: AnswerDelivery = field(init=False)

    def __post_init__(self) -> None:
        self.delivery = AnswerDelivery(Joined(), self.hear)

    async def hear(self, message: FromWorker) -> None:
        encode(message)  # which refuses what is too long
        self.heard.append(message)
        if self.deaf:
            self.deaf -= 1
            return
        match message:
            case Answers():
                if message.first == len(self.entries):
                    self.entries += [*message.answers, *message.outcomes]
                ack = AnswersAck(run=message.run, lease=message.lease, upto=message.upto)
                await self.delivery.hear(ack)
                await self.delivery.hear(ack)
            case AnswersWanted():
                reply = KeptAnswers(
                    run=message.run, lease=message.lease, after=message.after,
                    answers=tuple(self.kept[message.after : message.after + 3]),
                    total=len(self.kept),
                )  # fmt: skip
                await self.delivery.hear(reply.model_copy(update={"after": message.after + 1}))
                await self.delivery.hear(reply)
                await self.delivery.hear(reply)


def test_a_message_is_the_same_until_its_own_acknowledgement() -> None:
    queue = AnswerQueue(RUN, "e0001.1")
    assert queue.message() is None
    queue.add(NewAnswers(answers=(answer(1),), outcomes=(outcome(1),)))
    assert queue.message(only_full=True) is None
    message = queue.message()
    assert message is not None
    queue.add(NewAnswers(answers=(answer(2),)))
    assert queue.message() is message
    assert not queue.acknowledge(1)
    assert queue.acknowledge(2)
    assert not queue.acknowledge(2)
    following = queue.message()
    assert following is not None
    assert (following.first, following.answers, following.outcomes) == (2, (answer(2),), ())


@pytest.mark.parametrize("size", [20, FULL_BYTES // 3, MOST_PACKED_BYTES])
def test_messages_are_bounded_and_the_longest_answer_goes_alone(size: int) -> None:
    queue = AnswerQueue(RUN, "e0001.1")
    queue.add(
        NewAnswers(
            answers=tuple(answer(n, size) for n in range(4)) + tuple(map(answer, range(4, 600))),
            outcomes=tuple(map(outcome, range(600))),
        )
    )
    entries: list[KeptAnswer | ScoredOutcome] = []
    while (message := queue.message()) is not None:
        encode(message)
        assert message.first == len(entries)
        assert len(message.answers) + len(message.outcomes) <= MOST_ENTRIES
        if size == MOST_PACKED_BYTES and message.first < 4:
            assert message.upto == message.first + 1
        entries += [*message.answers, *message.outcomes]
        queue.acknowledge(message.upto)
    assert len(entries) == 1200
    assert len(queue) == 0


async def test_a_beat_sends_what_has_come_and_full_messages_follow_at_once() -> None:
    master = FakeMaster()
    keep = master.delivery.keep(assigned())
    await master.delivery.turn()
    assert master.heard == []
    keep(NewAnswers(answers=tuple(answer(n, FULL_BYTES // 2) for n in range(5))))
    await master.delivery.turn()
    assert len(master.entries) == 4  # the fifth alone may wait for more
    await master.delivery.turn()
    assert len(master.entries) == 5


async def test_an_unheard_message_is_repeated_and_stored_once() -> None:
    master = FakeMaster(deaf=2)
    master.delivery.keep(assigned())(NewAnswers(answers=tuple(map(answer, range(5)))))
    async with asyncio.timeout(20):
        while not master.entries:
            await master.delivery.turn()
            await asyncio.sleep(RESEND / 10)
    assert len(master.heard) == 3
    assert master.heard[0] == master.heard[1] == master.heard[2]
    assert master.entries == list(map(answer, range(5)))


async def test_a_failed_attempt_waits_for_its_answers_but_not_for_a_deaf_master() -> None:
    master, deaf = FakeMaster(deaf=1), FakeMaster(deaf=1000)
    for one in (master, deaf):
        keep = one.delivery.keep(assigned())
        keep(NewAnswers(answers=tuple(answer(n, FULL_BYTES // 2) for n in range(5))))
        async with asyncio.timeout(20):
            await one.delivery.settle(assigned())
    assert len(master.entries) == 5
    assert deaf.entries == []

    deaf.deaf = 0
    await deaf.delivery.send_all()
    assert len(deaf.entries) == 5


class FakeJob:
    """Ends a step at once, with two answers."""

    async def work(self, assign: Assign, answers: AnswerDelivery, _: object) -> Stepped:
        answers.keep(assign)(NewAnswers(answers=(answer(1), answer(2))))
        return STEPPED


async def test_the_result_of_a_step_follows_its_answers_but_does_not_wait_for_a_deaf_master(
    tmp_path: Path,
) -> None:
    joined = Joined()
    joined.ready = SimpleNamespace(digests={})
    assign = assigned().model_copy(update={"config": SPEC.config_hash({}), "upto": 3, "enough": 2})
    for deaf, kinds in (
        (0, ["answers", "result"]),
        (1000, ["answers"] * SETTLE_REPEATS + ["result"]),
    ):
        master = FakeMaster()
        fakes: Any = (FakeJob(), Outbox(tmp_path / str(deaf)), joined, master.delivery, master.hear)
        runner = LeaseRunner(*fakes)
        await runner.take(assign)
        master.deaf = deaf
        assert runner.task is not None
        async with asyncio.timeout(20):
            await runner.task
        assert [message.type for message in master.heard] == ["accept", *kinds]
        assert isinstance(master.heard[-1], Result)
        assert master.heard[-1].body == STEPPED


async def test_what_an_earlier_lease_has_left_is_still_sent_up_to_a_limit() -> None:
    master = FakeMaster(deaf=1000)
    names = [f"e{number:04d}" for number in range(MOST_LEASES + 2)]
    for name in names:
        master.delivery.keep(assigned(name))(NewAnswers(outcomes=(outcome(1),)))
    master.delivery.drop(RUN, f"{names[-2]}.1")
    await master.delivery.turn()
    sent = [message.lease for message in master.heard if isinstance(message, Answers)]
    assert sent == [f"{name}.1" for name in (*names[2:-2], names[-1])]


async def test_all_kept_answers_are_fetched_although_messages_are_lost() -> None:
    master = FakeMaster(deaf=FETCH_ATTEMPTS - 1, kept=list(map(answer, range(8))))
    progress: list[StageProgress] = []
    found = await master.delivery.fetch(assigned(kept=7), progress.append)
    assert found == master.kept
    assert [event.done for event in progress] == [0] * FETCH_ATTEMPTS + [3, 6]


async def test_a_master_that_gives_no_kept_answers_holds_up_no_evaluation() -> None:
    deaf, empty = FakeMaster(deaf=1000), FakeMaster()
    for master, asked in ((deaf, FETCH_ATTEMPTS), (empty, 1)):
        async with asyncio.timeout(20):
            assert await master.delivery.fetch(assigned(kept=5), lambda _: None) == []
        assert len(master.heard) == asked


@pytest.mark.parametrize(("attempt", "number"), [(1, 0), (2, 5)])
async def test_a_further_attempt_asks_for_answers_that_were_not_counted(
    attempt: int, number: int
) -> None:
    master = FakeMaster(kept=list(map(answer, range(5))))
    found = await master.delivery.fetch(assigned(attempt=attempt), lambda _: None)
    assert found == master.kept[:number]


def test_a_packed_answer_of_the_longest_kind_fits_a_message() -> None:
    text = random.Random(0).randbytes(200_000).hex()
    kept = pack("0" * 64, Answer(text, tuple(range(50_000)), 5, "stop", 1.0))
    assert kept is not None
    queue = AnswerQueue(RUN, "e0001.1")
    queue.add(NewAnswers(answers=(kept,)))
    message = queue.message()
    assert message is not None
    encode(message)


def test_the_tokens_so_far_are_those_of_the_lease_that_is_held() -> None:
    async def unsent(_: FromWorker) -> None:
        raise AssertionError("numbers of tokens go with the beats")

    delivery = AnswerDelivery(Joined(), unsent)
    first, second = assigned(), assigned(attempt=2)
    keep = delivery.keep(first)
    keep(NewAnswers(generated={"b": 5}))
    keep(NewAnswers())
    assert delivery.generated(first) == {"b": 5}
    delivery.keep(second)
    assert delivery.generated(second) == {}, "another attempt begins anew"
    assert delivery.generated(first) == {"b": 5}
    delivery.drop(RUN, first.lease)
    assert delivery.generated(first) == {}
