"""The outcomes of single answers, in the process of the search method.

They are read from the journal, once for each evaluation, and give two things that a `RunState`
cannot: estimates of merges that have answered a part, and the noise that merges do not share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from apbmm_common.errors import ApbmmError
from apbmm_common.repetitions import question_of
from apbmm_master.journal.events import BenchmarkEstimates
from apbmm_master.journal.storage.partial_outcomes import PartialRow
from apbmm_master.journal.storage.store import read_rows
from apbmm_master.search.arrays import Array
from apbmm_master.search.partial_answers.objective_noise import objective_noise
from apbmm_master.search.partial_answers.outcome_estimates import (
    Answers,
    Estimator,
    Outcomes,
)
from apbmm_master.search.reference_scaling import (
    Measurement,
    ScaledObjective,
    estimated_objectives,
)

Merge = TypeVar("Merge")
MOST_EARLIER = 48
"""Complete merges, the last ones, that estimates are learned from."""
LEARNT = frozenset({"accuracy", "tokens"})
"""Metrics that are the mean of a column of the outcomes."""


class OutcomesMissingError(ApbmmError):
    """The journal has no outcomes of a reference, so that nothing can be estimated from them."""


@dataclass(frozen=True, slots=True)
class AnsweredMerge:
    """An evaluation and its vector; None for a source that is no point of the space.

    ``tokens``: those of a partial merge so far, which grow if it goes on and is beaten.
    """

    evaluation: str
    vector: tuple[float, ...] | None
    tokens: int = 0


@dataclass(frozen=True)
class OutcomeRequest:
    """Which outcomes of a run count, and what they are to be turned into.

    - ``run_dir``: where the journal is;
    - ``references``: the sources; ``complete``: merges that have answered everything, in the
      order in which they did, those that estimates are learned from;
    - ``partial``: merges that have answered a first step only, in the order of their proposals;
    - ``repeats``: of each benchmark; ``objectives`` and ``scale``, the metrics of the references:
      Eq. 2.
    """

    run_dir: Path
    references: tuple[AnsweredMerge, ...]
    complete: tuple[AnsweredMerge, ...]
    partial: tuple[AnsweredMerge, ...]
    repeats: Mapping[str, int]
    objectives: tuple[ScaledObjective, ...]
    scale: Mapping[str, Measurement]


@dataclass(frozen=True)
class Table:
    """What one evaluation answered of one benchmark (Q,), NaN where it did not.

    ``generated``: tokens so far of answers that were cut, 0 elsewhere.
    """

    scores: Array
    tokens: Array
    generated: Array

    @classmethod
    def of(cls, size: int) -> Table:
        """Of so many questions, none of them answered."""
        return cls(np.full(size, np.nan), np.full(size, np.nan), np.zeros(size))


def earlier_merges(complete: Sequence[Merge]) -> Sequence[Merge]:
    """Those of the complete merges, in the order of their completion, that teach estimates.

    The last few of them are left out, of 9 merges one and of 79 fifteen, so that not every result
    changes all estimates.
    """
    count = len(complete)
    settled = count - count % max(1, 1 << max(0, count.bit_length() - 3))
    return complete[max(0, settled - MOST_EARLIER) : settled]


class OutcomeBook:
    """What is known of each answer, by evaluation and benchmark."""

    def __init__(self) -> None:
        self._questions: dict[str, dict[str, int]] = {}
        """Of each benchmark: the place of each answer, by its id."""
        self._done: dict[str, dict[str, Table]] = {}
        self._partial: dict[str, dict[str, Table]] = {}
        self._read_at: dict[str, int] = {}
        """`AnsweredMerge.tokens` of each partial merge when it was read."""
        self._estimators: tuple[tuple[str, ...], dict[str, Estimator]] = ((), {})
        self._estimates: dict[str, BenchmarkEstimates] = {}

    def read(self, request: OutcomeRequest, done: Iterable[str] = ()) -> None:
        """Read what is not known yet: all that ``request`` names, and further ones that are done.

        Raises JournalError.
        """
        wanted = [each.evaluation for each in (*request.references, *request.complete)]
        new = [name for name in dict.fromkeys([*wanted, *done]) if name not in self._done]
        tokens = {each.evaluation: each.tokens for each in request.partial}
        paused = [name for name in tokens if self._read_at.get(name) != tokens[name]]
        if not new and not paused:
            return
        for name, rows in read_rows(request.run_dir, new, paused):
            if name in paused:
                # One whose rows are gone has its result since, and is not asked for again. One that
                # has generated nothing never had any.
                if rows or not tokens[name]:
                    self._partial[name] = self._tables(rows)
                    self._read_at[name] = tokens[name]
                    self._estimates.pop(name, None)
            else:
                self._partial.pop(name, None)
                self._read_at.pop(name, None)
                self._done[name] = self._tables(rows)

    def _tables(self, rows: Sequence[PartialRow]) -> dict[str, Table]:
        """A table for each benchmark of which there is a row.

        The first evaluation that is read, a reference, has all answers. Others that an evaluation
        has would be of another set of questions, and are left out.
        """
        if not self._questions:
            for row in rows:
                places = self._questions.setdefault(row.benchmark, {})
                places[row.question] = len(places)
        found = {name: Table.of(len(places)) for name, places in self._questions.items()}
        for row in rows:
            place = self._questions.get(row.benchmark, {}).get(row.question)
            if place is None:
                continue
            table = found[row.benchmark]
            if row.score is None:
                table.generated[place] = row.tokens
            else:
                table.scores[place], table.tokens[place] = row.score, row.tokens
        return found

    # ---- estimates -----------------------------------------------------------------------

    def estimates(self, request: OutcomeRequest) -> dict[str, BenchmarkEstimates]:
        """Means over all answers of the partial merges, those of which rows are known.

        They depend on the answers of the references, of ``complete`` and of the merge alone. A
        merge is estimated anew where ``complete`` has changed. Raises `OutcomesMissingError`, and
        JournalError.
        """
        self.read(request)
        earlier = tuple(each.evaluation for each in (*request.references, *request.complete))
        if self._estimators[0] != earlier:
            self._estimators = earlier, self._learned(request)
            self._estimates = {}
        estimators = self._estimators[1]
        for merge in request.partial:
            tables = self._partial.get(merge.evaluation)
            if tables is not None and merge.evaluation not in self._estimates:
                vector = None if merge.vector is None else np.array(merge.vector)
                self._estimates[merge.evaluation] = {
                    name: _estimated(estimator, tables[name], vector)
                    for name, estimator in estimators.items()
                }
        names = (each.evaluation for each in request.partial)
        return {name: self._estimates[name] for name in names if name in self._estimates}

    def _learned(self, request: OutcomeRequest) -> dict[str, Estimator]:
        """An estimator for each benchmark."""
        for reference in request.references:
            if not self._is_whole(reference.evaluation):
                raise OutcomesMissingError(
                    f"merges cannot be measured in part: the journal has no outcomes of the "
                    f"reference {reference.evaluation}",
                    "set enabled and stop_beaten of [steps] to false, and the same command goes on",
                )
        every = (*request.references, *request.complete)
        found = {}
        for name in self._questions:
            tables = [self._done[each.evaluation].get(name) for each in every]
            known = [
                (table, each.vector)
                for table, each in zip(tables, every, strict=True)
                if table is not None and np.isfinite(table.scores).all()
            ]
            vectors = [vector for _, vector in known if vector is not None]
            found[name] = Estimator(
                Outcomes(
                    np.stack([table.scores for table, _ in known]),
                    np.stack([table.tokens for table, _ in known]),
                    np.array(vectors) if len(vectors) == len(known) else None,
                )
            )
        return found

    def estimated_objectives(self, request: OutcomeRequest) -> dict[str, tuple[Array, Array]]:
        """Objectives (m,) of the partial merges by their estimates, and the variances of these."""
        return {
            name: estimated_objectives(request.objectives, estimate, request.scale)
            for name, estimate in self.estimates(request).items()
        }

    # ---- noise ---------------------------------------------------------------------------

    def noise(self, request: OutcomeRequest, done: Sequence[str]) -> dict[str, Array]:
        """Variances (m,) of the objectives of merges that are done, which no others share.

        `objective_noise`, learned from all that are done and the references, whose noise is there
        as well. Empty where an objective is of another metric than accuracy or tokens. Without
        those of which there are no outcomes.
        """
        if not {objective.metric for objective in request.objectives} <= LEARNT:
            return {}
        references = [each.evaluation for each in request.references]
        self.read(request, done)
        names = [name for name in (*references, *done) if self._is_whole(name)]
        if len(names) < len(references) or len(names) == 0:
            return {}
        answers = [
            {
                benchmark: {
                    metric: self._by_question(name, benchmark, metric, request.repeats)
                    for metric in LEARNT
                }
                for benchmark in self._questions
            }
            for name in names
        ]
        noise = objective_noise(answers, request.objectives, request.scale)
        return dict(zip(names, noise, strict=True))

    def _is_whole(self, name: str) -> bool:
        tables = self._done[name]
        return bool(tables) and all(np.isfinite(t.scores).all() for t in tables.values())

    def _by_question(
        self, name: str, benchmark: str, metric: str, repeats: Mapping[str, int]
    ) -> Array:
        """The means (Q,) of the answers to each question; see `apbmm_common.repetitions`."""
        table = self._done[name][benchmark]
        values = table.scores if metric == "accuracy" else table.tokens
        times = repeats.get(benchmark, 1)
        if times == 1:
            return values
        numbers: dict[str, int] = {}
        places = [
            numbers.setdefault(question_of(answer, times), len(numbers))
            for answer in self._questions[benchmark]
        ]
        return np.bincount(places, values) / np.bincount(places)


def _estimated(
    estimator: Estimator, table: Table, vector: Array | None
) -> dict[str, tuple[float, float]]:
    found = estimator.estimate(Answers(table.scores, table.tokens, table.generated, vector))
    pairs = (("accuracy", found.accuracy), ("tokens", found.tokens))
    return {metric: (mean.mean, mean.variance) for metric, mean in pairs}
