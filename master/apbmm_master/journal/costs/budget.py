"""How much of each limit of the budget is spent, how much is left, and for how long it lasts.

All of it follows from the events of the journal, so that a resumed master decides as the one
before. What a limit counts is said with its key, in `BudgetSection`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from apbmm_common.run_file import BudgetSection
from apbmm_master.journal.assessment.first_steps import (
    answers_of_a_merge,
    first_step,
    has_steps,
    share_in_progress,
    share_of,
)
from apbmm_master.journal.costs.cost import attempt_gpu_seconds
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.state.run_state import RunState

LimitName = Literal["evaluations", "gpu_hours", "generated_tokens"]
UNITS: dict[LimitName, str] = {
    "evaluations": "evaluations",
    "gpu_hours": "GPU-hours",
    "generated_tokens": "generated tokens",
}
SECONDS_PER_HOUR = 3600.0
ROUNDING = 1e-9
"""Share of a limit by which sums of costs may be wrong."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of the budget, by its key in the run file. All numbers are in its unit.

    - ``most``: the limit itself;
    - ``spent``: by everything that has ended;
    - ``in_progress``: what the evaluations in progress are expected to cost, at least what they
      have taken up to the last event;
    - ``each``: what one evaluation is expected to cost, the mean of those completed, or that of the
      references while there are none. 0 while nothing is known;
    - ``first``: which share of that the first step of a new merge is; 1 where there are no steps;
    - ``least``: what must be left for a merge to be begun.
    """

    name: LimitName
    most: float
    spent: float
    in_progress: float
    each: float
    first: float = 1.0
    least: float = 0.0

    @property
    def left(self) -> float:
        """What is not spent, at least 0."""
        return max(0.0, self.most - self.spent)

    @property
    def is_reached(self) -> bool:
        """Whether it is spent, or too little of it is left."""
        return self.spent >= self.most * (1 - ROUNDING) - self.least

    @property
    def unused(self) -> float:
        """What more than `least` neither is spent nor will be by what is in progress, maybe < 0."""
        return self.most * (1 - ROUNDING) - self.spent - self.in_progress - self.least

    def room(self, queued: int = 0, kept: float = 0.0) -> float:
        """How many evaluations may be begun, beside so many that are queued for it already.

        One may be begun as long as anything is left beside what is in progress, and what is
        ``kept`` for other purposes.
        """
        begin = self.first * self.each
        open_ = self.unused - kept - queued * begin
        if open_ <= 0.0:
            return 0.0
        return math.ceil(open_ / begin) if begin else math.inf

    @property
    def in_words(self) -> str:
        """As in ``1.25/4 GPU-hours``."""
        return f"{amount(self.spent)}/{amount(self.most)} {UNITS[self.name]}"


def amount(value: float) -> str:
    """A number of a limit's unit for people: whole from 100 on, else two decimals at most.

    Below 0.1 it has four decimals at most.
    """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 if value >= 0.1 else 4}f}".rstrip("0").rstrip(".")


def limits(run_state: RunState, budget: BudgetSection | None = None) -> tuple[Limit, ...]:
    """The limits of the run, at least one, or of another ``budget`` for the same run."""
    assert run_state.spec is not None
    return tuple(_limits(run_state, budget or run_state.spec.budget))


def evaluations_spent(run_state: RunState) -> float:
    """Completed evaluations, and the shares of those that have answered a first step."""
    done = float(run_state.count(EvaluationState.DONE))
    in_part = run_state.spending.answers_in_part
    return done + in_part / answers_of_a_merge(run_state) if in_part else done


def _limits(run_state: RunState, budget: BudgetSection) -> Iterator[Limit]:
    spending = run_state.spending
    typical = spending.typical
    first = share_of(run_state, first_step(run_state))
    active = [
        (evaluation, attempt, share_in_progress(run_state, evaluation, attempt))
        for evaluation, attempt in run_state.active_attempts()
    ]
    if budget.evaluations is not None:
        done = evaluations_spent(run_state)
        begun = math.fsum(share for evaluation, _, share in active if evaluation.in_budget)
        yield Limit("evaluations", budget.evaluations, done, begun, 1.0, first, _least(run_state))
    if budget.gpu_hours is not None:
        each = typical.gpu_seconds / typical.count if typical.count else 0.0
        held = math.fsum(
            max(attempt_gpu_seconds(run_state, attempt, run_state.time), each * share)
            for _, attempt, share in active
        )
        spent, begun, mean = (
            seconds / SECONDS_PER_HOUR for seconds in (spending.gpu_seconds, held, each)
        )
        yield Limit("gpu_hours", budget.gpu_hours, spent, begun, mean, first)
    if budget.generated_tokens is not None:
        each = typical.tokens / typical.count if typical.count else 0.0
        answering = each * math.fsum(share for _, _, share in active)
        yield Limit(
            "generated_tokens", budget.generated_tokens, spending.tokens, answering, each, first
        )


def _least(run_state: RunState) -> float:
    """How much of an evaluation must be left for one to be begun.

    Where merges are stopped the evaluations that are spent are no whole number. With half of one a
    run ends as near to its limit as it can. What is paused takes what is left.
    """
    return 0.0 if has_steps(run_state) else 0.5


def room(
    run_state: RunState, queued: int = 0, kept: Mapping[LimitName, float] | None = None
) -> float:
    """How many evaluations may be begun within every limit; infinite while no cost is known.

    ``kept``: what of each limit is kept for the end of the run.
    """
    return min(limit.room(queued, (kept or {}).get(limit.name, 0.0)) for limit in limits(run_state))


def reached(run_state: RunState) -> Limit | None:
    """The first limit that is spent; None while there is none."""
    return next((limit for limit in limits(run_state) if limit.is_reached), None)


def reached_cost(run_state: RunState) -> Limit | None:
    """As `reached`, of the limits of what is paid. They hold for the references as well."""
    costs = (limit for limit in limits(run_state) if limit.name != "evaluations")
    return next((limit for limit in costs if limit.is_reached), None)


@dataclass(frozen=True, slots=True)
class Forecast:
    """In how many seconds the budget is spent, and by which limit.

    It follows from the ``merges`` that are left, at ``each`` GPU-seconds, the mean of ``measured``
    evaluations, on ``cards`` cards, those of the workers that may work. How many are busy at an
    instant says little, since each waits for its next merge now and then.
    """

    limit: LimitName
    seconds: float
    merges: float = 0.0
    each: float = 0.0
    measured: int = 0
    cards: int = 0

    @property
    def in_words(self) -> str:
        """The time as `roughly` says it."""
        return roughly(self.seconds)


def roughly(seconds: float) -> str:
    """A time to come for people, as coarse as forecasts are: ``about 2 min``."""
    minutes = seconds / 60
    if minutes < 1:
        return "less than 1 min"
    if minutes < 20:
        return f"about {minutes:.0f} min"
    if minutes < 90:
        return f"about {5 * round(minutes / 5)} min"
    return f"about {amount(round(minutes / 30) / 2)} h"


def forecast(run_state: RunState, now: float, away: Collection[str] = ()) -> Forecast | None:
    """When the first limit is reached, at the pace of the connected workers; ``now`` is the time.

    ``away`` are the names of workers that are connected and get no work. None while nobody may work
    or nothing has been measured. Patience may end the run sooner.
    """
    merges = [a for e, a in run_state.active_attempts() if e.in_budget]
    cards = run_state.sessions.cards_here(away)
    typical = run_state.spending.typical
    if not (cards and typical.count):
        return None
    first = min(
        (limit for limit in limits(run_state) if limit.each),
        key=lambda limit: limit.left / limit.each,
        default=None,
    )
    if first is None:
        return None
    each = typical.gpu_seconds / typical.count
    begun = math.fsum(attempt_gpu_seconds(run_state, attempt, now) for attempt in merges)
    left = first.left / first.each
    at_work = sum(cards[: max(1, math.ceil(left))])  # the last merges leave workers idle
    seconds = max(0.0, left * each - begun) / at_work
    return Forecast(first.name, seconds, left, each, typical.count, at_work)
