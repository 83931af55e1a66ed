"""The state machines of evaluations and their attempts, and the liveness of workers. Pure.

Evaluation:  QUEUED -> ACTIVE -> DONE | FAILED,  ACTIVE -> QUEUED when its attempt ended without a
             result, FAILED -> FAILED only (a late success is a duplicate). One that is measured in
             steps: ACTIVE -> PAUSED -> ACTIVE -> DONE, or PAUSED -> STOPPED. It is PAUSED again
             when a later attempt ended without a result. One that is beaten while it is evaluated:
             ACTIVE -> PAUSED -> STOPPED.
Attempt:     LEASED -> RUNNING -> DONE | PAUSED | FAILED | LOST. It is REPORTING after RUNNING while
             its report is made and its engine is free already. LEASED and REPORTING may end the
             same ways, and a LOST or FAILED attempt may still become DONE or PAUSED (a message sent
             twice can make a worker do it again): the first valid result wins, whichever attempt
             it is.

The liveness of an attempt's worker (LIVE, SUSPECT, ORPHANED) is derived from how long the worker
has been silent on the monotonic clock; it is never stored, so no clock can leave it stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from apbmm_common.run_file import TimingsSection


class EvaluationState(StrEnum):
    """State of an evaluation."""

    QUEUED = "queued"
    ACTIVE = "active"
    PAUSED = "paused"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


class AttemptState(StrEnum):
    """State of an attempt."""

    LEASED = "leased"
    RUNNING = "running"
    REPORTING = "reporting"
    DONE = "done"
    PAUSED = "paused"
    FAILED = "failed"
    LOST = "lost"


class Liveness(StrEnum):
    """Liveness of an active attempt's worker."""

    LIVE = "live"
    SUSPECT = "suspect"
    ORPHANED = "orphaned"


EVALUATION_MOVES: dict[EvaluationState, frozenset[EvaluationState]] = {
    EvaluationState.QUEUED: frozenset(
        {
            EvaluationState.ACTIVE,
            EvaluationState.PAUSED,
            EvaluationState.DONE,
            EvaluationState.FAILED,
        }
    ),
    EvaluationState.ACTIVE: frozenset(
        {
            EvaluationState.QUEUED,
            EvaluationState.PAUSED,
            EvaluationState.DONE,
            EvaluationState.FAILED,
        }
    ),
    EvaluationState.PAUSED: frozenset(
        {
            EvaluationState.ACTIVE,
            EvaluationState.PAUSED,
            EvaluationState.DONE,
            EvaluationState.STOPPED,
            EvaluationState.FAILED,
        }
    ),
    EvaluationState.DONE: frozenset(),
    EvaluationState.STOPPED: frozenset(),
    EvaluationState.FAILED: frozenset(),
}
"""QUEUED -> DONE or PAUSED: a lost attempt's result arrived before the next attempt was leased.

So did that of a beaten one where a merge is PAUSED twice.
"""

_ENDS = frozenset({AttemptState.DONE, AttemptState.PAUSED, AttemptState.FAILED, AttemptState.LOST})
_LATE_ENDS = frozenset({AttemptState.DONE, AttemptState.PAUSED})
ATTEMPT_MOVES: dict[AttemptState, frozenset[AttemptState]] = {
    AttemptState.LEASED: _ENDS | {AttemptState.RUNNING},
    AttemptState.RUNNING: _ENDS | {AttemptState.REPORTING},
    AttemptState.REPORTING: _ENDS,
    AttemptState.LOST: _LATE_ENDS,
    AttemptState.DONE: frozenset(),
    AttemptState.PAUSED: frozenset(),
    AttemptState.FAILED: _LATE_ENDS,
}

BEGUN = frozenset({AttemptState.RUNNING, AttemptState.REPORTING})
"""The attempt's worker has said that it holds the lease."""
ACTIVE_ATTEMPT = BEGUN | {AttemptState.LEASED}
DELIVERED = frozenset({AttemptState.DONE, AttemptState.PAUSED})
"""The attempt's result is recorded, that of all questions or of a step."""
SETTLED = frozenset({EvaluationState.DONE, EvaluationState.STOPPED, EvaluationState.FAILED})
UNFINISHED = frozenset(EvaluationState) - SETTLED


class InvariantError(AssertionError):
    """A transition that the tables forbid. It is a defect of apbmm, never of the user."""


def move_evaluation(old: EvaluationState, new: EvaluationState) -> EvaluationState:
    """``new`` if the table allows it. Raises `InvariantError` otherwise."""
    if new not in EVALUATION_MOVES[old]:
        raise InvariantError(f"evaluation: {old} -> {new}")
    return new


def move_attempt(old: AttemptState, new: AttemptState) -> AttemptState:
    """``new`` if the table allows it. Raises `InvariantError` otherwise."""
    if new not in ATTEMPT_MOVES[old]:
        raise InvariantError(f"attempt: {old} -> {new}")
    return new


def liveness(silent: float, timings: TimingsSection) -> Liveness:
    """Liveness of a worker that has been silent for ``silent`` seconds."""
    if silent < timings.suspect:
        return Liveness.LIVE
    return Liveness.SUSPECT if silent < timings.unreachable else Liveness.ORPHANED


def orphan_deadline(durations: Sequence[float], timings: TimingsSection) -> float:
    """Seconds of silence after which a lease is given up; ``durations`` in increasing order.

    Unreachable plus a grace of twice the 95th percentile of the durations so far, at least
    ``timings.orphan_grace``: a worker behind a broken network goes on evaluating, and its result
    is worth waiting for about as long as evaluating anew takes.
    """
    grace = timings.orphan_grace
    if durations:
        grace = max(grace, 2 * durations[min(len(durations) - 1, int(0.95 * len(durations)))])
    return timings.unreachable + grace
