"""Merges in progress: the best that each can still become, from what it has answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from apbmm_master.journal.assessment.first_steps import answers_by_benchmark, stops_when_beaten
from apbmm_master.journal.assessment.scores import best_with
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.answer_tables import ScoredPart
from apbmm_master.search.arrays import Array

_Progress = tuple[Mapping[str, ScoredPart], Mapping[str, int]]
"""What is scored, by benchmark, and the tokens so far."""


def with_tokens(
    parts: Mapping[str, ScoredPart],
    generated: Mapping[str, int],
    answers: Mapping[str, int],
    longest: int,
) -> dict[str, ScoredPart]:
    """What is scored of each benchmark, with the tokens of answers in flight.

    Of two numbers of tokens the larger one counts: both are no more than the answers will have. A
    number that so many ``answers`` of at most ``longest`` tokens cannot have is ignored.
    """
    found = dict(parts)
    for name, tokens in generated.items():
        if name in answers and tokens <= answers[name] * longest:
            part = parts.get(name, ScoredPart())
            found[name] = replace(part, tokens=max(part.tokens, tokens))
    return found


@dataclass
class ReachableObjectives:
    """The best objectives of each merge in progress that may be stopped, once for its answers."""

    _known: dict[str, tuple[_Progress, Array]] = field(default_factory=dict)

    def update(
        self,
        run_state: RunState,
        scored: Callable[[str], Mapping[str, ScoredPart]],
        generated: Callable[[str, str], Mapping[str, int]] = lambda *_: {},
    ) -> Mapping[str, Array]:
        """By evaluation: its best objectives (m,).

        ``scored`` says what of one is answered, ``generated`` the tokens so far under a lease of a
        worker, by benchmark, also of answers in flight.

        Those of which nothing is known are left out, and those that have answered everything, for
        nothing is left to be stopped.
        """
        assert run_state.spec is not None
        longest = run_state.spec.generation.max_tokens
        known, self._known = self._known, {}
        answers = answers_by_benchmark(run_state)
        for evaluation, attempt in run_state.active_attempts():
            progress = scored(evaluation.id), generated(attempt.worker, attempt.lease)
            if attempt.beaten or not any(progress) or not stops_when_beaten(run_state, evaluation):
                continue
            parts, tokens = progress
            answered = sum(part.answered for part in parts.values())
            if attempt.answered_at is not None or answered >= sum(answers.values()):
                continue
            same = known.get(evaluation.id)
            if same is None or same[0][0] is not parts or same[0][1] != tokens:
                known_parts = with_tokens(parts, tokens, answers, longest)
                same = progress, np.array(best_with(run_state, known_parts, answers))
            self._known[evaluation.id] = same
        return {name: best for name, (_, best) in self._known.items()}
