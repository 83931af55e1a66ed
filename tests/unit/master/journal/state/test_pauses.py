"""Merges that pause after their first step: states, what they cost, and what the journal keeps."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.errors import JournalError, RunChangedError
from apbmm_common.protocol.answers import CUT, Answer, pack
from apbmm_common.protocol.messages import Answers, KeptAnswer
from apbmm_master.journal.assessment.first_steps import Step, first_step, measures_in_steps, step_of
from apbmm_master.journal.assessment.scores import best_reachable, estimated_objectives, score
from apbmm_master.journal.costs.budget import limits, room
from apbmm_master.journal.events import (
    AnyEvent,
    AttemptFailed,
    EpochStarted,
    Finishing,
    Leased,
    Lost,
    Paused,
    Proposal,
    Proposed,
    Record,
    ResultRecorded,
    RunStarted,
    SourcesVerified,
    SpecChanged,
    Stopped,
)
from apbmm_master.journal.lifecycle import AttemptState, EvaluationState, InvariantError
from apbmm_master.journal.run_start.resume import begin_or_resume
from apbmm_master.journal.state.evaluations import TellCall
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import NAME, Journal, read_outcomes, read_rows
from protocol_world import DIGESTS, PROMPTS, answer_of, world_spec
from stepped_merges import estimate, estimated, paused, stepped, whole

PAUSED, ACTIVE = EvaluationState.PAUSED, EvaluationState.ACTIVE
KEY = next(iter(PROMPTS))


def spec(**changes: Any) -> dict[str, Any]:
    return world_spec(steps={"enabled": True, **changes}).model_dump(mode="json")


def proposed(name: str, purpose: Any = "search", vector: Sequence[float] = (0.5,) * 4) -> Proposed:
    proposal = Proposal(evaluation=name, vector=tuple(vector), key=name)
    return Proposed(purpose=purpose, proposals=(proposal,))


def leased(name: str, attempt: int = 1, upto: int = 0) -> Leased:
    return Leased(
        evaluation=name, attempt=attempt, lease=f"{name}.{attempt}", worker="a", boot="a",
        upto=upto, enough=upto,
    )  # fmt: skip


def done(
    name: str, accuracy: float, tokens: float, attempt: int = 1, outcomes: int = 10
) -> ResultRecorded:
    return ResultRecorded(
        evaluation=name, attempt=attempt, lease=f"{name}.{attempt}", worker="a", seconds=1.0,
        digest="d", body=whole(accuracy, tokens), outcomes=outcomes,
    )  # fmt: skip


BEGUN: tuple[AnyEvent, ...] = (
    RunStarted(run="r", spec=spec()), EpochStarted(epoch=1, host="h", pid=1),
    proposed("thinking", "reference"), leased("thinking"), done("thinking", 0.8, 200.0),
    proposed("instruct", "reference"), leased("instruct"), done("instruct", 0.4, 50.0),
)  # fmt: skip
PAUSE: tuple[AnyEvent, ...] = (proposed("e1"), leased("e1", upto=3), paused("e1"))


def records(*events: AnyEvent, begun: Sequence[AnyEvent] = BEGUN) -> list[Record]:
    return [Record(i, 10.0 * i, event) for i, event in enumerate((*begun, *events), 1)]


def run_state_of(*events: AnyEvent) -> RunState:
    return RunState().replay(records(*events))


def tells(run_state: RunState) -> list[TellCall]:
    return [call for call in run_state.calls if isinstance(call, TellCall)]


def test_a_merge_pauses_goes_on_and_is_done() -> None:
    run_state = run_state_of(*PAUSE)
    evaluation = run_state.evaluations["e1"]
    assert (evaluation.state, evaluation.attempts[0].state) == (PAUSED, AttemptState.PAUSED)
    assert evaluation.step is not None
    assert (evaluation.step.answered, evaluation.step.share) == (2, 0.2)
    assert evaluation.step.body == stepped().without_rows()
    assert tells(run_state) == [], "before it is estimated nothing is told"
    assert step_of(run_state, evaluation) == Step()
    run_state = run_state_of(*PAUSE, estimated("e1"), leased("e1", 2), done("e1", 0.6, 90.0, 2))
    assert tells(run_state) == [TellCall("e1", estimated=True), TellCall("e1")]
    assert run_state.evaluations["e1"].estimate == estimate()
    assert run_state.completed == ["e1"]


@pytest.mark.parametrize(
    "end",
    [
        Lost(evaluation="e1", lease="e1.2", reason="gone"),
        AttemptFailed(
            evaluation="e1", attempt=2, lease="e1.2", worker="a", fault="infrastructure", message=""
        ),
    ],
)
def test_a_merge_whose_second_attempt_ends_without_a_result_is_paused_again(end: AnyEvent) -> None:
    run_state = run_state_of(*PAUSE, leased("e1", 2), end)
    assert run_state.evaluations["e1"].state is PAUSED
    assert [e.id for e in run_state.of_state(PAUSED)] == ["e1"]
    late = Record(run_state.seq + 1, 999.0, done("e1", 0.6, 90.0, 2))
    run_state.apply(late)
    assert run_state.evaluations["e1"].state is EvaluationState.DONE


def test_limits_stay_once_a_merge_was_measured_in_part() -> None:
    """An estimate is of accuracy and tokens: a limit of another metric could not be told of it."""
    limited = world_spec(at_most={"sums": {"seconds": 9.0}})
    begun = (*BEGUN, SourcesVerified(worker="a", layers=4, digests=DIGESTS))
    pause = (proposed("e1", "initial"), *PAUSE[1:])
    cases = ((pause[:2], False), (pause, True), ((*pause, estimated("e1")), True))
    for events, refused in cases:
        run_state = RunState().replay(records(*events, begun=begun))
        found: list[AnyEvent] = []
        expected = pytest.raises(RunChangedError, match=r"in at_most\.sums") if refused else None
        with expected or nullcontext():
            begin_or_resume(run_state, limited, found.append)
        assert len(found) == (not refused)


def test_a_late_step_of_a_lost_attempt_ends_its_rival() -> None:
    lost = Lost(evaluation="e1", lease="e1.1", reason="gone")
    run_state = run_state_of(proposed("e1"), leased("e1", upto=3), lost, leased("e1", 2, 3))
    run_state.apply(Record(run_state.seq + 1, 999.0, paused("e1")))
    states = [attempt.state for attempt in run_state.evaluations["e1"].attempts]
    assert states == [AttemptState.PAUSED, AttemptState.LOST]
    assert run_state.held_by("a") is None


@pytest.mark.parametrize(
    "event",
    [
        paused("e1"),
        estimated("e2"),
        Stopped(evaluation="e2", reason="r"),
    ],
)
def test_what_cannot_happen_is_refused(event: AnyEvent) -> None:
    run_state = run_state_of(*PAUSE, proposed("e2"))
    with pytest.raises(InvariantError):
        run_state.apply(Record(run_state.seq + 1, 999.0, event))


def test_what_is_stopped_is_settled_and_stays_an_estimate() -> None:
    run_state = run_state_of(*PAUSE, estimated("e1"), Stopped(evaluation="e1", reason="beaten"))
    evaluation = run_state.evaluations["e1"]
    assert (evaluation.state, evaluation.message) == ("stopped", "beaten")
    assert tells(run_state) == [TellCall("e1", estimated=True)]
    with pytest.raises(InvariantError):
        run_state.apply(Record(run_state.seq + 1, 999.0, leased("e1", 2)))


def test_a_larger_budget_ends_the_finishing() -> None:
    run_state = run_state_of(Finishing(reason="the end"))
    assert run_state.finishing == "the end"
    run_state = run_state_of(
        Finishing(reason="the end"), SpecChanged(spec=spec(first=0.5), keys=("steps.first",))
    )
    assert run_state.finishing == ""


def test_a_paused_merge_counts_by_its_share_of_the_answers_and_all_its_tokens() -> None:
    before, after = run_state_of(), run_state_of(*PAUSE)
    assert limits(after)[0].spent == pytest.approx(0.2)
    assert after.spending.tokens - before.spending.tokens == 2 * 100 + 50
    complete = run_state_of(*PAUSE, leased("e1", 2), done("e1", 0.6, 90.0, 2))
    assert limits(complete)[0].spent == 1.0
    assert complete.spending.tokens - before.spending.tokens == 900


def test_what_is_in_progress_counts_by_what_it_is_to_answer() -> None:
    first = run_state_of(proposed("e1"), leased("e1", upto=3))
    assert limits(first)[0].in_progress == pytest.approx(0.3)
    second = run_state_of(*PAUSE, leased("e1", 2))
    assert limits(second)[0].in_progress == pytest.approx(0.8)
    assert limits(second)[0].unused == pytest.approx(3.0)
    assert (room(second), room(second, 0, {"evaluations": 2.8})) == (10, 1)


def test_the_first_step_is_a_share_of_what_a_reference_answered() -> None:
    run_state = run_state_of(proposed("e1"))
    assert first_step(run_state) == Step(3, 3)
    assert step_of(run_state, run_state.evaluations["e1"]) == Step(3, 3)
    assert step_of(run_state, run_state.evaluations["thinking"]) == Step()
    unknown = RunState().replay(records(proposed("e1"), begun=BEGUN[:2]))
    assert not measures_in_steps(unknown)
    assert step_of(unknown, unknown.evaluations["e1"]) == Step()


def test_without_the_outcomes_of_the_references_nothing_is_measured_in_steps() -> None:
    """As in a journal of an early version."""
    old = [done("thinking", 0.8, 200.0, outcomes=0) if e is BEGUN[4] else e for e in BEGUN]
    run_state = RunState().replay(records(begun=old))
    assert first_step(run_state) == Step()


def test_the_next_attempt_asks_what_the_last_one_did() -> None:
    lost = Lost(evaluation="e1", lease="e1.1", reason="gone")
    run_state = run_state_of(proposed("e1"), leased("e1", upto=0), lost)
    assert step_of(run_state, run_state.evaluations["e1"]) == Step()
    run_state = run_state_of(proposed("e1"), leased("e1", upto=5), lost)
    assert step_of(run_state, run_state.evaluations["e1"]) == Step(5, 5)


def test_an_estimate_goes_through_eq_2_with_its_variance() -> None:
    run_state = run_state_of(*PAUSE)
    means, variances = estimated_objectives(run_state, estimate((0.6, 0.01), (110.0, 225.0)))
    assert means == pytest.approx((0.5, 0.6))
    assert variances == pytest.approx((0.01 / 0.4**2, 225.0 / 150.0**2))


def test_no_measurement_is_better_than_what_was_reachable() -> None:
    """All the rest right, and no token more than was generated for the answers so far."""
    run_state = run_state_of(*PAUSE, leased("e1", 2), done("e1", 0.8, 90.0, 2))
    evaluation = run_state.evaluations["e1"]
    assert evaluation.step is not None
    best = best_reachable(run_state, evaluation.step)
    assert best == pytest.approx(((1.0 - 0.4) / 0.4, (200.0 - 25.0) / 150.0))
    assert all(b >= s for b, s in zip(best, score(run_state, evaluation), strict=True))


# ---- the journal -------------------------------------------------------------------------


def partial(journal: Journal) -> list[tuple[str, float | None, int, str]]:
    (_, rows), *_ = read_rows(journal.path.parent, [], ["e1"])
    return [(row.question, row.score, row.tokens, row.finish_reason) for row in rows]


def test_answers_of_a_step_are_stored_beside_its_event_until_the_result_replaces_them(
    tmp_path: Path,
) -> None:
    every = records(*PAUSE, estimated("e1"), leased("e1", 2), done("e1", 0.6, 90.0, 2))
    with Journal(tmp_path) as journal:
        journal.append(every[:-1])
        assert partial(journal) == [
            ("0", 1.0, 100, "stop"), ("1", 1.0, 100, "stop"), ("2", None, 50, CUT)
        ]  # fmt: skip
        event = next(r.event for r in journal.records() if isinstance(r.event, Paused))
        assert event.body == stepped().without_rows()
        assert RunState().replay(journal.records()) == RunState().replay(every[:-1])
        assert read_outcomes(tmp_path, "e1") == []
        journal.append(every[-1:])
        assert partial(journal) == []
        assert len(read_outcomes(tmp_path, "e1")) == 10


def test_a_failed_commit_stores_neither_the_event_nor_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = records(*PAUSE)
    with Journal(tmp_path) as journal:
        journal.append(every[:-1])
        with monkeypatch.context() as failing:
            failing.setattr("apbmm_master.journal.storage.store.reach", _refuse)
            with pytest.raises(JournalError):
                journal.append(every[-1:])
        assert (partial(journal), journal.seq) == ([], len(every) - 1)
        journal.append(every[-1:])
        assert len(partial(journal)) == 3


def _refuse(point: str, detail: str) -> None:
    if point == "journal.insert" and detail == "paused":
        raise sqlite3.OperationalError("disk full")


def kept(reason: str, tokens: int) -> KeptAnswer:
    found = pack(KEY, Answer("", tuple(range(tokens)), 1, reason, 0.5))
    assert found is not None
    return found


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1, 2, 0)])
def test_an_answer_that_was_cut_off_gives_way_to_a_longer_one_alone(
    tmp_path: Path, order: Sequence[int]
) -> None:
    answers = (kept(CUT, 3), kept(CUT, 5), kept("stop", 4))
    with Journal(tmp_path) as journal:
        for index in order:
            journal.keep([("e1", Answers(lease="l", first=0, answers=(answers[index],)))])
        assert journal.answers.page("e1", 0) == (answers[2],)
        journal.keep([("e2", Answers(lease="l", first=0, answers=(answers[1],)))])
        journal.keep([("e2", Answers(lease="l", first=0, answers=(answers[0],)))])
        assert journal.answers.page("e2", 0) == (answers[1],)


def test_kept_answers_outlive_the_pause_and_end_with_the_stop(tmp_path: Path) -> None:
    every = records(*PAUSE, estimated("e1"), Stopped(evaluation="e1", reason="beaten"))
    with Journal(tmp_path) as journal:
        journal.append(every[:-3])
        journal.keep([("e1", Answers(lease="l", first=0, answers=(answer_of((0.5,) * 4, KEY),)))])
        journal.append(every[-3:-1])
        assert journal.answers.of("e1").answers == 1
        journal.append(every[-1:])
        assert journal.answers.of("e1").answers == 0
        assert len(partial(journal)) == 3, "of use to the estimates of others"


def test_a_journal_of_an_earlier_version_gets_the_table(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(records())
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute("DROP TABLE partial_outcomes")
    with Journal(tmp_path) as journal:
        journal.append(records(*PAUSE)[len(BEGUN) :])
        assert len(partial(journal)) == 3
