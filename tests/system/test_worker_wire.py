"""A worker process, rehearsing, against a master of the test's own."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from apbmm_common import PROTOCOL_VERSION
from apbmm_common.errors import EXIT_INTERRUPTED
from apbmm_common.protocol.messages import (
    Accept,
    Answers,
    AnswersAck,
    AnswersWanted,
    Assign,
    Beat,
    BeatAck,
    Bye,
    Cancel,
    Decline,
    Drain,
    Evaluated,
    Failed,
    Hello,
    HelloAgain,
    KeptAnswer,
    KeptAnswers,
    Message,
    Ready,
    Refuse,
    Result,
    ResultAck,
    Welcome,
)
from apbmm_common.run_file import RunSpec
from apbmm_worker.daemon.answer_delivery import FETCH_ATTEMPTS
from fake_peers import FakeMaster
from rehearsal_runs import Process, Site, press, run_spec, wait_for

RUN = "fake-1"


def spec(seconds: float = 0.0, stall: float = 600.0) -> RunSpec:
    return run_spec(
        evaluation={"rehearsal_seconds": seconds},
        timings={"beat": 0.2, "suspect": 20.0, "unreachable": 40.0, "resend": 0.5, "stall": stall},
    )


async def welcome(master: FakeMaster, run: RunSpec, name: str = RUN) -> Ready:
    await master.say(Welcome(run=name, epoch=1, spec=run.model_dump(mode="json")))
    return await master.hear(Ready)


def assignment(run: RunSpec, ready: Ready, lease: str = "e0001.1", name: str = RUN) -> Assign:
    evaluation, _, attempt = lease.partition(".")
    return Assign(
        run=name, evaluation=evaluation, attempt=int(attempt), lease=lease, work="evaluate",
        vector=(1.0,) * 4, config=run.config_hash(ready.digests),
    )  # fmt: skip


def child_of(worker: Process) -> int:
    (child,) = wait_for("the evaluation process", worker.children)
    return child


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def outbox(site: Site) -> list[Path]:
    return list((site.folder / "state" / "locks" / "a" / "outbox").iterdir())


@pytest.mark.slow
async def test_a_result_outlives_kill_9_until_it_is_acknowledged(site: Site) -> None:
    run, master = spec(), FakeMaster(site.port)
    try:
        worker = site.worker("a")
        await master.hear(Hello)
        ready = await welcome(master, run)
        await master.say(assignment(run, ready))
        assert (await master.hear(Accept)).lease == "e0001.1"
        result = await master.hear(Result)
        assert isinstance(result.body, Evaluated)
        assert await master.hear(Result) == result, "it is sent again until it is acknowledged"
        assert [path.name for path in outbox(site)] == ["fake-1.e0001.1.json"]

        worker.kill()
        again = site.worker("a")
        hello = await master.hear(Hello)
        assert [lease.lease for lease in hello.unacknowledged] == ["e0001.1"]
        ready = await welcome(master, run)
        assert await master.hear(Result) == result
        # A late ASSIGN of what is done is not worked on again.
        await master.say(assignment(run, ready))
        assert await master.hear(Result) == result
        await master.say(ResultAck(run=RUN, lease="e0001.1"))
        wait_for("an empty outbox", lambda: not outbox(site))
        # A master that goes on with an older journal has forgotten what it acknowledged.
        await master.say(assignment(run, ready))
        assert "done with that lease" in (await master.hear(Decline)).reason
        await master.say(assignment(run, ready, "e0002.1"))
        assert (await master.hear(Accept)).lease == "e0002.1"
        assert (await master.hear(Result)).lease == "e0002.1"
        await master.say(Cancel(run=RUN, lease="e0002.1", unknown=True))
        wait_for("the file set aside", lambda: outbox(site)[0].suffix == ".unknown")
        again.signal(signal.SIGTERM)
        assert (await master.hear(Bye)).kept == ()
        assert again.end() == 0
    finally:
        master.close()


@pytest.mark.slow
async def test_a_worker_answers_lost_and_repeated_messages(site: Site) -> None:
    run, master = spec(seconds=600.0), FakeMaster(site.port)
    try:
        worker = site.worker("a")
        first = await master.hear(Hello)
        assert (await master.hear(Hello)).number > first.number, "WELCOME was lost"
        await master.say(assignment(run, Ready(run=RUN, layers=1, digests={}, versions={})))
        assert "not prepared" in (await master.hear(Decline)).reason
        ready = await welcome(master, run)
        await master.say(BeatAck(run=RUN, epoch=1, stage="preparing"))
        assert await master.hear(Ready) == ready, "READY was lost"
        wrong = assignment(run, ready).model_copy(update={"config": "other"})
        await master.say(wrong)
        assert "settings" in (await master.hear(Decline)).reason
        for _ in range(2):
            await master.say(assignment(run, ready))
            assert (await master.hear(Accept)).lease == "e0001.1"
        await master.say(assignment(run, ready, "e0002.1"))
        assert "it holds e0001.1" in (await master.hear(Decline)).reason
        assert (await master.hear(Beat)).lease == "e0001.1"

        child = child_of(worker)
        await master.say(HelloAgain(run=RUN))
        hello = await master.hear(Hello)
        assert [lease.lease for lease in hello.held] == ["e0001.1"]
        # Another budget needs no other preparation: the engine stays.
        budget = run.budget.model_copy(update={"evaluations": 99})
        more = run.model_copy(update={"budget": budget})
        assert await welcome(master, more) == ready
        assert child_of(worker) == child

        await master.say(Cancel(run=RUN, lease="e0001.1"))
        while (await master.hear(Beat)).lease:
            pass
        wait_for("the evaluation to stop", lambda: not is_alive(child))
        await master.say(Refuse(reason="a later process took the name a", final=True))
        assert worker.end() == 2
        assert "later process took the name a" in worker.output
        assert "Traceback" not in worker.output
    finally:
        master.close()


@pytest.mark.slow
async def test_another_protocol_version_is_named_by_the_worker_too(site: Site) -> None:
    run, master = spec(), FakeMaster(site.port)
    try:
        worker = site.worker("a")
        await master.hear(Hello)
        await master.say(Refuse(reason="no"), version=PROTOCOL_VERSION - 1)
        named = f"speaks protocol {PROTOCOL_VERSION - 1}, this end {PROTOCOL_VERSION}"
        wait_for("the refusal", lambda: named in worker.output)
        assert worker.popen.poll() is None
        await welcome(master, run)
    finally:
        master.close()


@pytest.mark.slow
async def test_a_hung_or_killed_evaluation_is_seen_and_its_process_replaced(site: Site) -> None:
    """The limit is short only while a process evaluates: one that starts may take long."""
    run, hasty = spec(seconds=600.0), spec(seconds=600.0, stall=8.0)
    master = FakeMaster(site.port)
    try:
        worker = site.worker("a")
        await master.hear(Hello)
        ready = await welcome(master, run)
        assert await welcome(master, hasty) == ready

        await master.say(assignment(run, ready))
        await master.hear(Accept)
        child = child_of(worker)
        while (await master.hear(Beat)).stage != "rehearse":
            pass
        os.kill(child, signal.SIGSTOP)
        result = await master.hear(Result)
        assert isinstance(result.body, Failed)
        assert (result.body.fault, result.body.message) == (
            "engine", "the evaluation showed no progress for 8 s in stage rehearse",
        )  # fmt: skip
        assert not is_alive(child)
        await master.say(ResultAck(run=RUN, lease="e0001.1"))

        await master.say(Welcome(run=RUN, epoch=1, spec=run.model_dump(mode="json")))
        again = assignment(run, ready, "e0001.2")
        await master.say(again)
        await master.hear(Accept)
        second = child_of(worker)
        assert second != child
        while (await master.hear(Beat)).stage != "rehearse":
            pass
        os.kill(second, signal.SIGKILL)
        result = await master.hear(Result)
        assert isinstance(result.body, Failed)
        assert result.body.fault == "engine"
        assert "died" in result.body.message
        await master.say(ResultAck(run=RUN, lease="e0001.2"))
    finally:
        master.close()


@pytest.mark.slow
async def test_a_worker_finishes_one_run_before_it_begins_the_next(site: Site) -> None:
    run, master = spec(), FakeMaster(site.port)
    try:
        worker = site.worker("a", fault="hang:thinking")
        await master.hear(Hello)
        ready = await welcome(master, run)
        await master.say(assignment(run, ready, "thinking.1"))
        await master.hear(Accept)
        await master.say(Bye(run=RUN, reason="over"))
        hello = await master.hear(Hello)
        assert [lease.run for lease in hello.held] == [RUN]
        await master.say(Welcome(run="fake-2", epoch=1, spec=run.model_dump(mode="json")))
        worker.go_on()
        ready = await master.hear(Ready)  # it answers once it holds no lease
        await master.say(assignment(run, ready, "thinking.1", "fake-2"))
        await master.hear(Accept)
        worker.signal(signal.SIGTERM)
        await master.hear(Drain)
        worker.go_on()
        result = await master.hear(Result)
        assert result.run == "fake-2", "results of another run are not this master's"
        await master.say(ResultAck(run="fake-2", lease="thinking.1"))
        assert worker.end() == 0
        assert [path.name for path in outbox(site)] == ["fake-1.thinking.1.json"]
    finally:
        master.close()


async def at_work(site: Site, run: RunSpec, fault: str = "") -> tuple[FakeMaster, Ready]:
    """A master with a worker that holds e0001.1."""
    master = FakeMaster(site.port)
    site.worker("a", fault=fault)
    await master.hear(Hello)
    ready = await welcome(master, run)
    await master.say(assignment(run, ready))
    await master.hear(Accept)
    return master, ready


async def acknowledged(master: FakeMaster, least: int) -> list[KeptAnswer]:
    """The answers of e0001.1, acknowledged, once there are at least so many."""
    found: list[KeptAnswer] = []
    entries = 0
    while len(found) < least:
        message = await master.hear(Answers)
        if message.first == entries:
            found += message.answers
            entries = message.upto
        await master.say(AnswersAck(run=RUN, lease="e0001.1", upto=message.upto))
    return found


def next_attempt(run: RunSpec, ready: Ready, kept: int) -> Assign:
    return assignment(run, ready, "e0001.2").model_copy(update={"kept": kept})


@pytest.mark.slow
async def test_a_worker_that_is_stopped_twice_sends_its_answers_before_it_says_bye(
    site: Site,
) -> None:
    """The master acknowledges nothing, so all but the first message are sent as the worker ends."""
    master, _ = await at_work(site, spec(seconds=60.0))
    (worker,) = site.processes
    try:
        repeated = await master.hear(Answers)
        assert repeated.first == 0
        begun = await master.hear(Beat)
        while (await master.hear(Beat)).done < begun.done + 3:  # there are more answers by then
            pass
        assert await master.hear(Answers) == repeated
        assert await asyncio.to_thread(press, worker) == EXIT_INTERRUPTED
        upto = 0
        while not isinstance(message := await master.hear(Message), Bye):
            if isinstance(message, Answers):
                assert message.first in (0, upto)
                upto = message.upto
        assert upto > repeated.upto
        assert message.kept == ()
    finally:
        master.close()


@pytest.mark.slow
async def test_the_next_attempt_begins_with_what_the_master_gives_and_sends_the_rest(
    site: Site,
) -> None:
    run = spec(seconds=6.0)
    master, ready = await at_work(site, run, "hang:e0001")
    (worker,) = site.processes
    try:
        kept = await acknowledged(master, 20)
        await master.say(Cancel(run=RUN, lease="e0001.1"))
        await master.say(next_attempt(run, ready, len(kept)))
        while (wanted := await master.hear(AnswersWanted)).after < len(kept):
            some = tuple(kept[wanted.after : wanted.after + 10])
            reply = KeptAnswers(
                run=RUN, lease="e0001.2", after=wanted.after, answers=some, total=len(kept)
            )
            await master.say(reply)
            if wanted.after + len(some) == len(kept):
                break
        sent: set[str] = set()
        entries = 0
        while not isinstance(message := await master.hear(Message), Result):
            if isinstance(message, Answers) and message.lease == "e0001.2":
                assert message.first == entries
                if not entries:
                    worker.go_on()
                entries = message.upto
                sent |= {answer.key for answer in message.answers}
                await master.say(AnswersAck(run=RUN, lease="e0001.2", upto=entries))
        assert isinstance(message.body, Evaluated)
        assert message.body.engine["kept_answers"] == len(kept)
        assert sent
        assert not sent & {answer.key for answer in kept}
    finally:
        master.close()


@pytest.mark.slow
async def test_an_evaluation_does_not_wait_for_answers_that_never_come(site: Site) -> None:
    run = spec(seconds=0.0)
    master, ready = await at_work(site, run)
    try:
        await master.hear(Result)
        await master.say(Cancel(run=RUN, lease="e0001.1", unknown=True))
        await master.say(next_attempt(run, ready, kept=5))
        for _ in range(FETCH_ATTEMPTS):
            assert (await master.hear(AnswersWanted)).after == 0
        while (result := await master.hear(Result)).lease != "e0001.2":
            pass
        assert isinstance(result.body, Evaluated)
        assert "kept_answers" not in result.body.engine
    finally:
        master.close()


@pytest.mark.slow
async def test_a_worker_leaves_when_there_has_been_no_run_for_as_long_as_it_was_told(
    site: Site,
) -> None:
    run, master = spec(), FakeMaster(site.port)
    told = {"APBMM_LEAVE_AFTER": "0.03"}
    try:
        lonely = site.worker("b", at="tcp://127.0.0.1:9", env=told)
        assert await asyncio.to_thread(lonely.end) == 0
        assert "no master has had a run for this worker" in lonely.output
        worker = site.worker("a", env=told)
        await master.hear(Hello)
        ready = await welcome(master, run)
        for _ in range(15):  # three seconds with a run, and without work
            await master.hear(Beat)
            await master.say(BeatAck(epoch=1, stage="ready"))
        assert worker.popen.poll() is None
        await master.say(assignment(run, ready))
        result = await master.hear(Result)
        await master.say(ResultAck(run=RUN, lease=result.lease))
        await master.say(Bye(run=RUN, reason="over"))
        assert await asyncio.to_thread(worker.end) == 0
        assert outbox(site) == []
    finally:
        master.close()
