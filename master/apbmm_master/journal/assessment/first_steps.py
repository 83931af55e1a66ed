"""How much of a merge its first step asks, where merges are measured in steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.assessment.estimate_checks import is_audited
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.evaluations import Attempt, Evaluation
from apbmm_master.journal.state.run_state import RunState

FEWEST_ANSWERS = 2
"""Fewer cannot be asked in two steps."""


@dataclass(frozen=True, slots=True)
class Step:
    """``upto`` and ``enough`` of an `Assign`; 0 where everything is asked."""

    upto: int = 0
    enough: int = 0


WHOLE = Step()


def answers_of_a_merge(run_state: RunState) -> int:
    """How many answers a merge gives in full, as a reference has shown; 0 before that."""
    return sum(answers_by_benchmark(run_state).values())


def answers_by_benchmark(run_state: RunState) -> dict[str, int]:
    """How many answers a merge gives in full, by benchmark; empty before a reference is done."""
    for name in run_state.references:
        reference = run_state.evaluations.get(name)
        if reference is not None and isinstance(reference.body, Evaluated):
            return {name: result.answers for name, result in reference.body.benchmarks.items()}
    return {}


def may_estimate(run_state: RunState) -> bool:
    """Whether the outcomes of the references are known as far as these are done.

    Estimates are learned from them. Workers and journals of early versions had none.
    """
    found = [run_state.evaluations.get(name) for name in run_state.references]
    return all(e.outcomes > 0 for e in found if e is not None and e.body is not None)


def measures_in_steps(run_state: RunState) -> bool:
    """Whether the merges that begin now are measured in steps.

    They are measured in full while no reference has shown how many questions there are, and in a
    run that confirms a search.
    """
    spec = run_state.spec
    if spec is None or run_state.confirms or not spec.steps.enabled:
        return False
    if not may_estimate(run_state):
        return False
    return answers_of_a_merge(run_state) >= FEWEST_ANSWERS


def has_steps(run_state: RunState) -> bool:
    """Whether merges are measured in steps, or some have paused that are to be completed."""
    return measures_in_steps(run_state) or run_state.count(EvaluationState.PAUSED) > 0


def stops_when_beaten(run_state: RunState, evaluation: Evaluation) -> bool:
    """Whether an evaluation is ended once a measured merge beats whatever it still answers.

    Merges that check estimates are measured in full.
    """
    spec = run_state.spec
    if spec is None or not spec.steps.stop_beaten or run_state.confirms:
        return False
    if not evaluation.in_budget:
        return False
    checks = spec.steps.enabled and is_audited(run_state, evaluation)
    return not checks and run_state.references_done and may_estimate(run_state)


def step_of(run_state: RunState, evaluation: Evaluation) -> Step:
    """What the next attempt at an evaluation asks: what the last one did, up to a pause.

    A merge that has paused goes on with everything.
    """
    if evaluation.step is not None or not evaluation.in_budget:
        return WHOLE
    if evaluation.attempts:
        last = evaluation.attempts[-1]
        return Step(last.upto, last.enough)
    return first_step(run_state)


def first_step(run_state: RunState) -> Step:
    """The step that a new merge begins with."""
    if not measures_in_steps(run_state):
        return WHOLE
    assert run_state.spec is not None
    steps, answers = run_state.spec.steps, answers_of_a_merge(run_state)
    upto = min(answers - 1, max(1, round(steps.first * answers)))
    return Step(upto, max(1, math.ceil(steps.answered * upto)))


def share_of(run_state: RunState, step: Step) -> float:
    """Which share of a whole evaluation a step is."""
    return step.upto / answers_of_a_merge(run_state) if step.upto else 1.0


def share_in_progress(run_state: RunState, evaluation: Evaluation, attempt: Attempt) -> float:
    """Which share of a merge's evaluation an attempt is expected to add; 0 for the measurement."""
    if evaluation.purpose == "measure":
        return 0.0
    done = 0.0 if evaluation.step is None else evaluation.step.share
    return share_of(run_state, Step(attempt.upto, attempt.enough)) - done
