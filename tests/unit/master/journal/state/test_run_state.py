from __future__ import annotations

from typing import Any

import pytest

from apbmm_common.protocol.messages import BenchmarkResult, Evaluated
from apbmm_master.journal.events import (
    Accepted,
    AnyEvent,
    AttemptFailed,
    EpochStarted,
    EvaluationFailed,
    Finished,
    Leased,
    Lost,
    Proposal,
    Proposed,
    Record,
    ResultRecorded,
    RunStarted,
    SourcesVerified,
    SpecChanged,
    WorkerJoined,
    WorkerLeft,
)
from apbmm_master.journal.lifecycle import AttemptState, EvaluationState, InvariantError
from apbmm_master.journal.state.evaluations import AskCall, TellCall
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.state.worker_sessions import WorkerSession
from protocol_world import measurement, world_spec

SPEC = world_spec().model_dump(mode="json")


def run_state_of(*events: AnyEvent) -> RunState:
    started: list[AnyEvent] = [RunStarted(run="r", spec=SPEC)]
    every = [*started, *events]
    return RunState().replay(Record(i, 10.0 * i, event) for i, event in enumerate(every, 1))


def proposed(*names: str, purpose: Any = "initial", **fields: Any) -> Proposed:
    proposals = tuple(Proposal(evaluation=n, vector=(0.5,) * 4, key=n) for n in names)
    return Proposed(purpose=purpose, proposals=proposals, **fields)


def leased(name: str, attempt: int = 1, worker: str = "a") -> Leased:
    return Leased(
        evaluation=name, attempt=attempt, lease=f"{name}.{attempt}", worker=worker, boot=worker
    )


def lost(name: str, attempt: int = 1) -> Lost:
    return Lost(evaluation=name, lease=f"{name}.{attempt}", reason="gone")


def failed(name: str, fault: Any, attempt: int = 1) -> AttemptFailed:
    return AttemptFailed(
        evaluation=name, attempt=attempt, lease=f"{name}.{attempt}", worker="a", fault=fault,
        message=f"{fault} {attempt}",
    )  # fmt: skip


def recorded(name: str, attempt: int = 1, seconds: float = 1.0, body: Any = None) -> ResultRecorded:
    return ResultRecorded(
        evaluation=name, attempt=attempt, lease=f"{name}.{attempt}", worker="a", seconds=seconds,
        digest="d", body=body or measurement(),
    )  # fmt: skip


REFERENCES = (
    proposed("thinking", purpose="reference"), proposed("instruct", purpose="reference"),
    leased("thinking"), recorded("thinking"), leased("instruct"), recorded("instruct"),
)  # fmt: skip


def test_an_evaluation_goes_from_proposal_to_result() -> None:
    run_state = run_state_of(proposed("e1"), leased("e1"), Accepted(evaluation="e1", lease="e1.1"))
    evaluation = run_state.evaluations["e1"]
    assert evaluation.state is EvaluationState.ACTIVE
    assert evaluation.active_attempt is not None
    assert evaluation.active_attempt.state is AttemptState.RUNNING
    run_state.apply(Record(5, 99.0, recorded("e1", seconds=4.0)))
    assert (evaluation.state, evaluation.seconds, evaluation.done_at) == ("done", 4.0, 99.0)
    assert run_state.completed == ["e1"]
    assert run_state.count(EvaluationState.DONE) == 1
    assert run_state.durations == [4.0]


def test_a_lost_attempt_queues_the_evaluation_in_its_old_place() -> None:
    run_state = run_state_of(proposed("e1", "e2", "e3"), leased("e1"), lost("e1"))
    assert [e.id for e in run_state.of_state(EvaluationState.QUEUED)] == ["e1", "e2", "e3"]
    assert run_state.evaluations["e1"].attempts[0].message == "gone"


def test_the_first_valid_result_ends_the_other_attempt() -> None:
    run_state = run_state_of(
        proposed("e1"), leased("e1"), lost("e1"), leased("e1", 2, "b"), recorded("e1", 1)
    )
    first, second = run_state.evaluations["e1"].attempts
    assert (first.state, second.state) == (AttemptState.DONE, AttemptState.LOST)
    assert "earlier attempt" in second.message


IMPOSSIBLE: dict[str, tuple[AnyEvent, ...]] = {
    "proposed twice": (proposed("e1"), proposed("e1")),
    "leased while it is leased": (proposed("e1"), leased("e1"), leased("e1", 2, "b")),
    "an attempt left out": (proposed("e1"), leased("e1", 2)),
    "two leases for one worker": (proposed("e1", "e2"), leased("e1"), leased("e2")),
    "accepted twice": (
        proposed("e1"),
        leased("e1"),
        *[Accepted(evaluation="e1", lease="e1.1")] * 2,
    ),
    "an unknown lease": (proposed("e1"), lost("e1")),
    "lost after it was done": (proposed("e1"), leased("e1"), recorded("e1"), lost("e1")),
    "a second result": (proposed("e1"), leased("e1"), recorded("e1"), recorded("e1")),
    "given up twice": (proposed("e1"), *[EvaluationFailed(evaluation="e1", message="")] * 2),
    "a worker that joins twice": tuple(
        WorkerJoined(worker="a", boot="a", gpu="0", host="h", versions={}) for _ in range(2)
    ),
}


@pytest.mark.parametrize("events", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_cannot_follow_is_refused(events: tuple[AnyEvent, ...]) -> None:
    run_state_of(*events[:-1])
    with pytest.raises(InvariantError):
        run_state_of(*events)


def test_records_come_in_order_and_begin_with_the_run() -> None:
    with pytest.raises(InvariantError, match="run_started"):
        RunState().apply(Record(1, 0.0, proposed("e1")))
    with pytest.raises(InvariantError, match="event 1 after 1"):
        run_state_of().apply(Record(1, 0.0, Finished(reason="x")))


def test_tells_wait_for_the_references_and_follow_the_ask_that_did_not_know_them() -> None:
    before = (proposed("e1", "e2"), leased("e1"), recorded("e1"))
    assert run_state_of(*before).calls == [AskCall(("e1", "e2"), (), "initial", 0.0)]
    run_state = run_state_of(*before, *REFERENCES)
    assert run_state.calls == [AskCall(("e1", "e2"), (), "initial", 0.0), TellCall("e1")]
    # e2 completes while an ask is computed from the two calls so far.
    late = proposed("e3", purpose="search", calls=2, pending=("e2",), seconds=2.5)
    run_state = run_state_of(*before, *REFERENCES, leased("e2"), recorded("e2"), late)
    assert run_state.calls == [
        AskCall(("e1", "e2"), (), "initial", 0.0),
        TellCall("e1"),
        AskCall(("e3",), ("e2",), "search", 2.5),
        TellCall("e2"),
    ]


def test_a_vector_given_up_is_told_as_rejected() -> None:
    events = (
        *REFERENCES, proposed("e1"), leased("e1"), failed("e1", "vector"), leased("e1", 2),
        failed("e1", "vector", 2),
    )  # fmt: skip
    run_state = run_state_of(*events)
    assert [e.id for e in run_state.with_failed_attempts()] == ["e1"]
    run_state = run_state_of(*events, EvaluationFailed(evaluation="e1", message="NaN"))
    assert run_state.calls[-1] == TellCall("e1", rejected=True)
    assert list(run_state.with_failed_attempts()) == []
    assert (run_state.count(EvaluationState.FAILED), run_state.completed) == (1, [])


def test_a_resumed_run_is_not_finished_any_more() -> None:
    ended = Finished(reason="too many failed", failed=True)
    assert run_state_of(ended).failed
    run_state = run_state_of(ended, SpecChanged(spec=SPEC, keys=("budget.failures",)))
    assert (run_state.finished, run_state.failed) == ("", False)


def test_stays_of_one_boot_over_two_masters_are_both_kept() -> None:
    joined = WorkerJoined(worker="a", boot="b1", gpu="0", host="h", versions={})
    epoch = EpochStarted(epoch=2, host="h", pid=1)
    left = WorkerLeft(worker="a", boot="b1", reason="unreachable", final=False)
    verified = SourcesVerified(worker="a", layers=2, digests={})
    run_state = run_state_of(joined, verified, epoch, joined, left)
    # The first stay ends with the first master's last event: the pause after it is nobody's time.
    assert run_state.sessions.stays == [
        WorkerSession("a", "b1", "0", "h", 20.0, 30.0),
        WorkerSession("a", "b1", "0", "h", 50.0, 60.0),
    ]
    assert not run_state.sessions.gone
    run_state.apply(Record(7, 70.0, WorkerLeft(worker="a", boot="b1", reason="stopped")))
    assert run_state.sessions.gone == {"b1"}


def test_questions_stay_in_the_journal() -> None:
    outcomes = (("q", 1.0, 3, "stop"),)
    sums = BenchmarkResult(metrics={"accuracy": 1}, questions=1, outcomes=outcomes)
    body = Evaluated(benchmarks={"sums": sums})
    run_state = run_state_of(proposed("e1"), leased("e1"), recorded("e1", body=body))
    kept = run_state.evaluations["e1"].body
    assert isinstance(kept, Evaluated)
    assert kept.benchmarks["sums"].outcomes == ()
    assert kept.benchmarks["sums"].metrics == {"accuracy": 1}


def test_run_states_are_equal_when_their_events_are() -> None:
    assert run_state_of(proposed("e1")) == run_state_of(proposed("e1"))
    assert run_state_of(proposed("e1")) != run_state_of(proposed("e2"))
    assert run_state_of(proposed("e1"), leased("e1")) != run_state_of(proposed("e1"))
