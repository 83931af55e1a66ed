"""Evaluations on which workers vanish again and again: bad luck, or vectors that take hosts down.

Which of the two it is nobody can tell, because preempted workers vanish as well. So this never
counts against a vector, it only bounds the harm. An evaluation that `VANISHED` workers vanished on
is set aside: it comes after all others, by one worker at a time, and holds no place in the budget
while it waits, so that the search goes on, and ends, without it if it must. A worker that is but
preempted now and then will do it in the end; what takes hosts down takes one at a time, and none
for which there is other work.

Where more are set aside than the budget allows failures, the fleet is the likelier culprit, and all
are treated as before. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from apbmm_master.evaluations import Evaluation
from apbmm_master.ledger import Ledger
from apbmm_master.lifecycle import EvaluationState

VANISHED = 5
"""Workers, each time another boot, that vanish on an evaluation before it is set aside."""


def set_aside(ledger: Ledger) -> list[Evaluation]:
    """Evaluations of the budget that are set aside, at work or waiting."""
    assert ledger.spec is not None
    found = [e for e in ledger.troubled() if e.counts and e.vanishings >= VANISHED]
    return found if len(found) <= ledger.spec.budget.failures else []


def waiting(ledger: Ledger) -> int:
    """How many of `set_aside` are in no worker's hands."""
    return sum(e.state is EvaluationState.QUEUED for e in set_aside(ledger))


def in_turn(ledger: Ledger) -> Iterator[Evaluation]:
    """What is queued in the order of the proposals, then one that is set aside, if none is out."""
    aside = set_aside(ledger)
    yield from (e for e in ledger.of_state(EvaluationState.QUEUED) if e not in aside)
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
