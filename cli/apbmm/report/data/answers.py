"""How merges that are neighbours on the front answer the same questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from apbmm.results.run_results import RunResults
from apbmm_common.repetitions import question_of
from apbmm_master.journal.storage.store import OutcomeRow, read_outcomes

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Two neighbours on the front, ``first`` the better one in the first objective.

    Attributes:
        questions: how many both answered.
        first_better, second_better: how many the one answered better than the other.
        p: of a two-sided sign test on these: how likely so uneven counts are if both answer equally
            well.
        more_tokens: mean of the first's tokens minus the second's, question by question.
    """

    first: str
    second: str
    questions: int
    first_better: int
    second_better: int
    p: float
    more_tokens: float


def neighbours(results: RunResults) -> list[Neighbours]:
    """Every pair of neighbours whose answers the journal has, from the best in the first objective.

    Empty for a rehearsal, which keeps no single answers.
    """
    repeats = {benchmark.name: benchmark.repeats for benchmark in results.spec.benchmarks}
    rows: dict[str, dict[tuple[str, str], list[OutcomeRow]]] = {}
    members = {each.id for each in results.front}
    for row in read_outcomes(results.run_dir):
        if row.evaluation in members:
            question = (row.benchmark, question_of(row.question, repeats[row.benchmark]))
            rows.setdefault(row.evaluation, {}).setdefault(question, []).append(row)
    found = []
    for first, second in pairwise(reversed(results.front)):
        if first.id in rows and second.id in rows:
            ours, theirs = rows[first.id], rows[second.id]
            common = [(ours[question], theirs[question]) for question in ours if question in theirs]
            if common:
                found.append(_compared(first.id, second.id, common))
    return found


def _compared(
    first: str, second: str, common: Sequence[tuple[Sequence[OutcomeRow], Sequence[OutcomeRow]]]
) -> Neighbours:
    """The comparison of two evaluations by all their answers to each common question."""
    pairs = [(_means(ours), _means(theirs)) for ours, theirs in common]
    better = sum(ours[0] > theirs[0] for ours, theirs in pairs)
    worse = sum(ours[0] < theirs[0] for ours, theirs in pairs)
    more = math.fsum(ours[1] - theirs[1] for ours, theirs in pairs) / len(pairs)
    return Neighbours(first, second, len(pairs), better, worse, sign_test(better, worse), more)


def _means(answers: Sequence[OutcomeRow]) -> tuple[float, float]:
    """Mean score and mean tokens of the answers to one question."""
    scores, tokens = ([a.score for a in answers], [a.tokens for a in answers])
    return math.fsum(scores) / len(answers), sum(tokens) / len(answers)


def sign_test(better: int, worse: int) -> float:
    """Two-sided exact p of ``better`` against ``worse`` under even odds; ties are left out."""
    count = better + worse
    ways = tail = 1
    for k in range(min(better, worse)):
        ways = ways * (count - k) // (k + 1)  # of choosing k + 1
        tail += ways
    return float(min(Fraction(1), Fraction(2 * tail, 2**count)))
