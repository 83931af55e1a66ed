from __future__ import annotations

import itertools

import pytest

from apbmm_common.run_file import TimingsSection
from apbmm_master.journal.lifecycle import (
    ATTEMPT_MOVES,
    EVALUATION_MOVES,
    AttemptState,
    EvaluationState,
    InvariantError,
    Liveness,
    liveness,
    move_attempt,
    move_evaluation,
    orphan_deadline,
)

TIMINGS = TimingsSection(beat=1, suspect=5, unreachable=10, orphan_grace=30)


def test_every_state_has_its_moves_and_no_other_is_possible() -> None:
    assert set(EVALUATION_MOVES) == set(EvaluationState)
    assert set(ATTEMPT_MOVES) == set(AttemptState)
    for old, new in itertools.product(EvaluationState, repeat=2):
        if new in EVALUATION_MOVES[old]:
            assert move_evaluation(old, new) is new
        else:
            with pytest.raises(InvariantError, match=f"{old} -> {new}"):
                move_evaluation(old, new)
    for before, after in itertools.product(AttemptState, repeat=2):
        if after in ATTEMPT_MOVES[before]:
            assert move_attempt(before, after) is after
        else:
            with pytest.raises(InvariantError, match=f"{before} -> {after}"):
                move_attempt(before, after)


def test_what_is_settled_stays_settled() -> None:
    assert not EVALUATION_MOVES[EvaluationState.DONE]
    assert not EVALUATION_MOVES[EvaluationState.FAILED]
    assert not ATTEMPT_MOVES[AttemptState.DONE]


@pytest.mark.parametrize(
    ("silent", "judged"),
    [
        (0, "live"),
        (4.9, "live"),
        (5, "suspect"),
        (9.9, "suspect"),
        (10, "orphaned"),
        (1e9, "orphaned"),
    ],
)
def test_silence_is_judged_by_the_timings(silent: float, judged: str) -> None:
    assert liveness(silent, TIMINGS) is Liveness(judged)


def test_the_grace_is_twice_the_95th_percentile_but_not_less_than_set() -> None:
    assert orphan_deadline([], TIMINGS) == 40
    assert orphan_deadline([1.0] * 20, TIMINGS) == 40
    assert orphan_deadline([100.0], TIMINGS) == 210
    assert orphan_deadline([1.0] * 95 + [50.0] * 5, TIMINGS) == 110
    assert orphan_deadline([1.0] * 96 + [50.0] * 4, TIMINGS) == 40
