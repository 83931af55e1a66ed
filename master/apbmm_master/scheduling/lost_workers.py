"""Evaluations on which workers vanish again and again: bad luck, or vectors that take hosts down.

Which of the two it is nobody can tell, because preempted workers vanish as well. So this never
counts against a vector, it only bounds the harm. An evaluation that `evaluations.VANISHED` workers
vanished on is set aside: it comes after all others, by one worker at a time, and holds no place in
the budget while it waits, so that the search goes on, and ends, without it if it must. The method
is told of it as of a vector that was given up: it keeps clear of it, replaces it in its design, and
takes its result if there is one after all. A worker that is but preempted now and then will do it
in the end; what takes hosts down takes one at a time, and none for which there is other work,
and not for ever (`worth_waiting_for`).

Where more are set aside than the budget allows failures, the fleet is the likelier culprit, and all
are treated as before. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from apbmm_master.journal.evaluations import VANISHED, Evaluation
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.run_state import RunState


def set_aside(run_state: RunState) -> list[Evaluation]:
    """Evaluations of the budget that are set aside, at work or waiting."""
    found = [e for e in run_state.troubled() if e.counts and e.avoided]
    allowed = run_state.spec.budget.failures if run_state.spec else 0
    return found if len(found) <= allowed else []


def waiting(run_state: RunState) -> int:
    """How many of `set_aside` are in no worker's hands."""
    return sum(e.state is EvaluationState.QUEUED for e in set_aside(run_state))


def worth_waiting_for(evaluation: Evaluation) -> bool:
    """Whether a run goes on for it alone, when its method has nothing more to propose.

    Not when as many workers again have vanished on it since it was set aside.
    """
    return not evaluation.counts or evaluation.vanishings < 2 * VANISHED


def in_turn(run_state: RunState) -> Iterator[Evaluation]:
    """What is queued in the order of the proposals, then one that is set aside, if none is out."""
    aside = set_aside(run_state)
    yield from (e for e in run_state.of_state(EvaluationState.QUEUED) if e not in aside)
    if not any(evaluation.state is EvaluationState.ACTIVE for evaluation in aside):
        yield from aside[:1]


def warning(evaluation: Evaluation) -> str:
    """What a person should know of one that is set aside."""
    names = sorted({a.worker for a in evaluation.attempts if a.vanished})
    return (
        f"{evaluation.vanishings} workers vanished while they evaluated it ({', '.join(names)}): "
        "it is tried again after other evaluations, and the run may end without it (hint: look at "
        "the logs of those hosts; if workers are preempted often, this need not mean anything)"
    )
