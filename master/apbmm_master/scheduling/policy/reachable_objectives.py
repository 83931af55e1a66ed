"""Merges in progress: the best that each can still become, from what it has answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from apbmm_master.journal.assessment.first_steps import answers_by_benchmark, stops_when_beaten
from apbmm_master.journal.assessment.scores import best_with
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.answer_tables import ScoredPart
from apbmm_master.search.arrays import Array


@dataclass
class ReachableObjectives:
    """The best objectives of each merge in progress that may be stopped, once for its answers."""

    _known: dict[str, tuple[Mapping[str, ScoredPart], Array]] = field(default_factory=dict)

    def update(
        self, run_state: RunState, scored: Callable[[str], Mapping[str, ScoredPart]]
    ) -> Mapping[str, Array]:
        """By evaluation: its best objectives (m,). ``scored`` says what of one is answered.

        Those that have answered nothing are left out, for nothing is known of them, and those that
        have answered everything, for nothing is left to be stopped.
        """
        known, self._known = self._known, {}
        answers = answers_by_benchmark(run_state)
        for evaluation, attempt in run_state.active_attempts():
            parts = scored(evaluation.id)
            if not parts or attempt.beaten or not stops_when_beaten(run_state, evaluation):
                continue
            answered = sum(part.answered for part in parts.values())
            if attempt.answered_at is not None or answered >= sum(answers.values()):
                continue
            same = known.get(evaluation.id)
            if same is None or same[0] is not parts:
                same = parts, np.array(best_with(run_state, parts, answers))
            self._known[evaluation.id] = same
        return {name: best for name, (_, best) in self._known.items()}
