"""Patience: what merges that were stopped count towards it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from apbmm_master.journal.assessment.scores import ScoreHistory
from apbmm_master.journal.costs.patience import standstill_of_hypervolume
from apbmm_master.journal.events import (
    AnyEvent,
    EpochStarted,
    Finishing,
    Leased,
    Lost,
    Proposal,
    Proposed,
    Purpose,
    Record,
    ResultRecorded,
    RunStarted,
    Stopped,
)
from apbmm_master.journal.lifecycle import AttemptState, EvaluationState
from apbmm_master.journal.state.run_state import RunState
from protocol_world import world_spec
from stepped_merges import estimated, paused, whole

EACH = 10.0
"""Seconds of a result, and of a pause."""
LOST = 1000.0
"""Seconds of an attempt that is lost."""
BUDGET = {"evaluations": 90, "initial": 1, "patience": 3}
Timed = tuple[float, AnyEvent]
"""An event, after the seconds that it came after the one before."""


def proposed(name: str, purpose: Purpose = "search") -> Timed:
    proposal = Proposal(evaluation=name, vector=(0.5,) * 4, key=name)
    return 0.0, Proposed(purpose=purpose, proposals=(proposal,))


def leased(name: str, attempt: int = 1, kept: int = 0) -> Timed:
    lease = f"{name}.{attempt}"
    return 0.0, Leased(
        evaluation=name, attempt=attempt, lease=lease, worker="a", boot="a", kept=kept
    )


def done(name: str, accuracy: float, tokens: float) -> Timed:
    return EACH, ResultRecorded(
        evaluation=name, attempt=1, lease=f"{name}.1", worker="a", seconds=1.0,
        digest="d", body=whole(accuracy, tokens), outcomes=10,
    )  # fmt: skip


def lost(name: str, attempt: int) -> Timed:
    return LOST, Lost(evaluation=name, lease=f"{name}.{attempt}", reason="gone", vanished=True)


def measured(
    name: str, purpose: Purpose = "search", accuracy: float = 0.6, tokens: float = 90.0
) -> list[Timed]:
    return [proposed(name, purpose), leased(name), done(name, accuracy, tokens)]


def stopped(name: str) -> Timed:
    return 0.0, Stopped(evaluation=name, reason="beaten")


PAUSE = [proposed("e2"), leased("e2"), (EACH, paused("e2")), (0.0, estimated("e2"))]
LOST_AFTER_THE_PAUSE = [*PAUSE, leased("e2", 2), lost("e2", 2), stopped("e2")]


def run_of(*events: Timed) -> RunState:
    """A run with one measured merge besides, of the initial design."""
    spec = world_spec(steps={"enabled": True, "audits": 0.0}, budget=BUDGET)
    begun: list[Timed] = [
        (0.0, RunStarted(run="r", spec=spec.model_dump(mode="json"))),
        (0.0, EpochStarted(epoch=1, host="h", pid=1)),
        *measured("thinking", "reference", 0.8, 200.0),
        *measured("instruct", "reference", 0.4, 50.0),
        *measured("e1", "initial"),
    ]
    run_state, time = RunState(), 0.0
    for seq, (after, event) in enumerate([*begun, *events], 1):
        time += after
        run_state.apply(Record(seq, time, event))
    return run_state


def standstill(run_state: RunState) -> str:
    scores = ScoreHistory()
    scores.update(run_state)
    return standstill_of_hypervolume(run_state, scores)


def further(count: int) -> list[Timed]:
    """So many merges more that are measured and no better."""
    return [event for i in range(count) for event in measured(f"f{i}")]


@pytest.mark.parametrize(
    ("merge", "others"),
    [
        ([*PAUSE, stopped("e2")], 2),
        (LOST_AFTER_THE_PAUSE, 2),
        (  # an attempt of which no answer was kept
            [
                *PAUSE[:2], lost("e2", 1), leased("e2", 2), (EACH, paused("e2", 2)),
                (0.0, estimated("e2")), stopped("e2"),
            ],
            2,
        ),
        (  # the pause has used the answers of the lost attempt
            [
                *PAUSE[:2], lost("e2", 1), leased("e2", 2, kept=1), (EACH, paused("e2", 2)),
                (0.0, estimated("e2")), leased("e2", 3, kept=2), lost("e2", 3), stopped("e2"),
            ],
            0,
        ),
    ],
)  # fmt: skip
def test_a_stopped_merge_counts_at_what_its_pause_has_cost(
    merge: Sequence[Timed], others: int
) -> None:
    """It is worth one of the three merges of the patience, or all of them."""
    for count in range(3):
        run_state = run_of(*merge, *further(count))
        assert run_state.evaluations["e2"].state is EvaluationState.STOPPED
        assert bool(standstill(run_state)) is (count >= others)


def test_a_stopped_merge_counts_when_it_paused() -> None:
    """In the finishing only what was measured since counts: no pause before it, no lost attempt."""
    finishing = (1.0, Finishing(reason="r"))
    run_state = run_of(*PAUSE, finishing, *LOST_AFTER_THE_PAUSE[len(PAUSE) :])
    states = [attempt.state for attempt in run_state.evaluations["e2"].attempts]
    assert states == [AttemptState.PAUSED, AttemptState.LOST]
    assert not standstill(run_state)
