"""Faults of the data or the run file that only workers find: they end the run, and no worker."""

from __future__ import annotations

from collections.abc import Callable

from apbmm_common.errors import EXIT_USAGE
from apbmm_common.protocol.messages import Failed, Refuse, ResultAck, Unfit
from apbmm_master.journal.events import (
    AttemptFailed,
    EvaluationFailed,
    Leased,
    ResultRecorded,
    SourcesVerified,
    WorkerQuarantined,
)
from apbmm_master.scheduling.policy.decisions import FinishRun
from apbmm_master.scheduling.policy.standstill import standstill
from protocol_world import DIGESTS, RUN, Sim, World, body_of, result_of

UNSCORED = Failed(fault="run_file", message="question 7 has no usable score", hint="look there")
OLD = {**DIGESTS, "benchmark.sums": "old"}
MENDED = {**DIGESTS, "benchmark.sums": "mended"}
DONE = FinishRun("4 evaluations completed")


def begun(*names: str) -> tuple[World, list[Sim]]:
    world = World()
    workers = [world.join(name) for name in names]
    for worker in workers:
        worker.digests = OLD
    world.exchange(8)
    return world, workers


def finish(world: World, worker: Sim, body: Failed | None = None) -> str:
    """End what a worker holds, well unless a body says otherwise; returns what it held."""
    assert worker.held is not None
    name = worker.held.evaluation
    worker.finish(body)
    world.exchange(8)
    return name


def held_by(worker: Sim) -> str:
    return worker.held.evaluation if worker.held is not None else ""


def to_the_end(world: World, cannot_score: Callable[[Sim], bool]) -> None:
    """Every worker ends what it holds, some of it with `UNSCORED`, until the run is over."""
    for _ in range(40):
        for worker in world.alive:
            if worker.held is not None:
                worker.finish(UNSCORED if cannot_score(worker) else None)
        world.pass_time(1.0)
        if world.end is not None:
            return
    raise AssertionError("not finished")


def faults(world: World) -> list[str]:
    return [r.event.fault for r in world.stored if isinstance(r.event, AttemptFailed)]


def quarantined(world: World) -> list[str]:
    return [r.event.worker for r in world.stored if isinstance(r.event, WorkerQuarantined)]


def verified(world: World) -> list[dict[str, str]]:
    return [r.event.digests for r in world.stored if isinstance(r.event, SourcesVerified)]


def test_the_only_worker_ends_the_run_with_its_message() -> None:
    world, (a,) = begun("a")
    assert finish(world, a) == "measure"
    assert finish(world, a, UNSCORED) == "thinking"
    (error,) = world.refused
    assert error.exit_code == EXIT_USAGE
    assert error.faults == ("thinking on a: question 7 has no usable score (hint: look there)",)
    assert "the same command goes on" in error.hint
    assert quarantined(world) == []
    assert held_by(a) == "thinking", "the next master begins it again"
    world.settle()
    assert world.end == DONE


def test_a_second_worker_is_asked_before_the_run_ends() -> None:
    world, (a, b) = begun("a", "b")
    assert finish(world, b, UNSCORED) == "thinking"
    assert held_by(b) == "", "it would fail the next evaluation as well"
    assert (held_by(a), world.refused) == ("measure", [])
    finish(world, a)
    assert finish(world, a, UNSCORED) == "thinking"
    (error,) = world.refused
    assert error.faults == (
        "thinking on a, thinking on b: question 7 has no usable score (hint: look there)",
    )
    assert (faults(world), quarantined(world)) == (["run_file"] * 2, [])


def test_two_evaluations_that_run_side_by_side_are_enough() -> None:
    world, (a, b, c) = begun("a", "b", "c")
    finish(world, b, UNSCORED)
    finish(world, c, UNSCORED)
    (error,) = world.refused
    assert error.faults[0].startswith("thinking on b, instruct on c: ")
    assert held_by(a) == "measure"


def test_the_last_worker_ends_the_run_when_the_others_have_left() -> None:
    world, (a, b) = begun("a", "b")
    finish(world, b, UNSCORED)
    a.bye()
    world.exchange(8)
    (error,) = world.refused
    assert error.faults[0].startswith("thinking on b: ")


def test_a_worker_whose_own_copy_is_damaged_ends_nothing_and_is_quarantined() -> None:
    world, (a, b) = begun("a", "b")
    finish(world, b, UNSCORED)
    finish(world, a)
    assert finish(world, a) == "thinking"
    assert held_by(b), "another worker has scored what it could not"
    to_the_end(world, lambda worker: worker is b)
    assert faults(world) == ["run_file", "infrastructure", "infrastructure"]
    assert quarantined(world) == ["b"]
    assert (world.refused, world.end) == ([], DONE)


def test_a_merge_whose_answers_cannot_be_scored_is_given_up_and_the_run_goes_on() -> None:
    world, _ = begun("a", "b")
    to_the_end(world, lambda worker: held_by(worker) == "e0002")
    (failure,) = [r.event for r in world.stored if isinstance(r.event, EvaluationFailed)]
    assert (failure.evaluation, failure.message) == ("e0002", UNSCORED.message)
    assert (faults(world), quarantined(world)) == (["vector"] * 2, [])
    assert (world.refused, world.end) == ([], DONE)


def test_what_every_worker_finds_as_it_prepares_ends_the_run() -> None:
    world = World()
    a, b = world.join("a"), world.join("b")
    world.collect()
    world.turn()
    unfit = Unfit(run=RUN, fault="run_file", message="a prompt of 90 tokens", hint="context")
    world.turn([(a.identity, unfit)])
    assert world.refused == [], "b may find that it fits"
    world.turn([(b.identity, unfit.model_copy(update={"fault": "infrastructure"}))])
    (error,) = world.refused
    assert error.faults == ("a: a prompt of 90 tokens (hint: context)",)


def test_what_one_worker_finds_as_it_prepares_ends_nothing_while_another_is_ready() -> None:
    world, (a,) = begun("a")
    b = world.join("b")
    world.collect()
    world.turn()
    world.turn([(b.identity, Unfit(run=RUN, fault="run_file", message="no such argument"))])
    assert world.refused == []
    world.settle()
    assert (world.refused, world.end) == ([], DONE)
    assert a.held is None


def test_missing_files_end_nothing_and_the_run_says_what_it_waits_for() -> None:
    world = World()
    workers = [world.join(name) for name in ("b", "a", "c")]
    world.collect()
    world.turn()
    for worker, what in zip(workers, ("no folder", "no folder", "no vLLM"), strict=True):
        world.turn([(worker.identity, Unfit(run=RUN, message=what, hint="copy it"))])
    assert world.refused == []
    first, *reasons, hint = standstill(world.run_state, world.fleet).split("\n  ")
    assert "none of its workers can go on" in first
    assert reasons == [
        "a (unfit), b (unfit): no folder (hint: copy it)",
        "c (unfit): no vLLM (hint: copy it)",
    ]
    assert "reads its files again" in hint


def test_the_run_goes_on_when_the_data_were_mended() -> None:
    world, (a, b) = begun("a", "b")
    finish(world, a)  # the measurement stays
    a.digests = b.digests = MENDED
    finish(world, a, UNSCORED)
    finish(world, b, UNSCORED)
    assert len(world.refused) == 1
    world.settle()
    assert world.end == DONE
    assert verified(world) == [OLD, MENDED]
    assert world.run_state.evaluations["measure"].attempts[-1].epoch == 1
    assert quarantined(world) == []
    done = [r.event.evaluation for r in world.stored if isinstance(r.event, ResultRecorded)]
    assert len(done) == len(set(done)) == 7


def test_a_worker_that_still_has_the_old_questions_gets_none_of_the_mended_run() -> None:
    world, (a, b) = begun("a", "b")
    finish(world, a)
    finish(world, a, UNSCORED)
    b.finish(UNSCORED)
    world.collect()
    world.turn()
    assert len(world.refused) == 1
    world.answers.clear()
    a.digests = MENDED
    for worker in (a, b):
        worker.beat()
        world.exchange(8)
    assert verified(world) == [OLD, MENDED]
    assert world.fleet.workers["b"].unfit == "its benchmark.sums differ from the run's"
    world.settle()
    assert world.end == DONE
    mended = next(r.seq for r in world.stored if r.event == _last_verified(world))
    later = [r.event for r in world.stored if isinstance(r.event, Leased) and r.seq > mended]
    assert {event.worker for event in later} == {"a"}


def _last_verified(world: World) -> SourcesVerified:
    return [r.event for r in world.stored if isinstance(r.event, SourcesVerified)][-1]


def test_what_was_measured_with_the_old_questions_comes_too_late() -> None:
    world, (a, b) = begun("a", "b")
    finish(world, a)
    assert (held_by(a), held_by(b)) == ("instruct", "thinking")
    assert b.held is not None
    late = result_of(b.held, body_of(b.held))
    b.alive = False
    a.digests = MENDED
    finish(world, a, UNSCORED)
    assert world.refused == [], "b may come back"
    world.pass_time(60)
    assert world.refused != []
    world.pass_time(30)
    assert verified(world) == [OLD, MENDED]
    again = world.join("b")
    again.digests = MENDED
    world.exchange(8)
    world.turn([(again.identity, late)])
    assert (again.identity, ResultAck(run=RUN, lease=late.lease)) in world.answers
    done = [r.event.lease for r in world.stored if isinstance(r.event, ResultRecorded)]
    assert late.lease not in done


def test_questions_do_not_change_once_one_was_scored() -> None:
    world, (a,) = begun("a")
    finish(world, a)
    assert finish(world, a) == "thinking"
    world.restart()
    a.digests = MENDED
    world.answers.clear()
    world.pass_time(2)
    assert verified(world) == [OLD]
    assert "benchmark.sums" in world.fleet.workers["a"].unfit


def test_other_weights_are_never_taken_for_mended_data() -> None:
    world, (a,) = begun("a")
    finish(world, a, UNSCORED)
    assert len(world.refused) == 1
    b = world.join("b")
    b.digests = {**MENDED, "rehearsal": "other"}
    world.restart()
    world.collect()
    world.turn([m for m in world.on_the_way if m[0] == b.identity])
    world.answers.clear()
    b.beat()
    world.collect()
    world.turn()
    refusals = [m for i, m in world.answers if i == b.identity and isinstance(m, Refuse)]
    assert verified(world) == [OLD]
    assert refusals == [] or "rehearsal" in refusals[0].reason
