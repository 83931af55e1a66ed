"""Merges in progress: the best that each can still become, from what it has answered. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from apbmm_master.journal.assessment.first_steps import answers_by_benchmark, stops_when_beaten
from apbmm_master.journal.assessment.scores import best_with
from apbmm_master.journal.state.evaluations import Attempt, Evaluation
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.answer_tables import ScoredPart
from apbmm_master.search.arrays import Array
from apbmm_master.search.partial_answers.steps import certainly_beaten

ROUNDING = 1e-9
"""What the objectives of a sum of scores may be below those of the mean that is reported."""


@dataclass
class ReachableObjectives:
    """The best objectives of each merge in progress that may be stopped, once for its answers."""

    _known: dict[str, tuple[Mapping[str, ScoredPart], Array]] = field(default_factory=dict)

    def update(
        self, run_state: RunState, scored: Callable[[str], Mapping[str, ScoredPart]]
    ) -> Mapping[str, Array]:
        """By evaluation: its best objectives (m,). ``scored`` says what of one is answered.

        Those that have answered nothing are left out: nothing is known of them.
        """
        known, self._known = self._known, {}
        answers = answers_by_benchmark(run_state)
        for evaluation, attempt in run_state.active_attempts():
            parts = scored(evaluation.id)
            if not parts or attempt.beaten or not stops_when_beaten(run_state, evaluation):
                continue
            same = known.get(evaluation.id)
            if same is None or same[0] is not parts:
                same = parts, np.array(best_with(run_state, parts, answers))
            self._known[evaluation.id] = same
        return {name: best for name, (_, best) in self._known.items()}


def beaten_in_progress(
    run_state: RunState, reachable: Mapping[str, Array], measured: Array
) -> Iterator[tuple[Evaluation, Attempt]]:
    """The merges that whatever they still answer cannot be better than ``measured`` (n, m) ones."""
    if not (reachable and len(measured)):
        return
    for evaluation, attempt in run_state.active_attempts():
        best = reachable.get(evaluation.id)
        if best is not None and not attempt.beaten and certainly_beaten(best + ROUNDING, measured):
            yield evaluation, attempt
