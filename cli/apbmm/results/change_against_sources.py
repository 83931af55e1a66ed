"""How merges changed against the sources, from a search to its confirmation.

Merges are chosen by what was measured in the search, sources are not. On other questions of the
same kind, merges change against sources only by chance, or because their choice was lucky. On one
question the difference is the mean over the merges minus the mean over the sources: what makes it
hard for all of them leaves that alone. The difference on a set of questions is the mean over them,
with its standard error. The change between two sets has the root of the sum of their squared
errors. Where the same questions are asked again, the change is taken question by question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from types import MappingProxyType

from apbmm.results.figures import Figure, mean_figure
from apbmm.results.run_results import RunResults
from apbmm_common.repetitions import question_of
from apbmm_master.journal.storage.store import OutcomeRow, read_outcomes

NUMBERS: Mapping[str, Callable[[OutcomeRow], float]] = MappingProxyType(
    {
        "accuracy": lambda row: row.score,
        "tokens": lambda row: row.tokens,
        "truncated": lambda row: row.finish_reason == "length",
    }
)
"""The metrics of which the journal has every answer's number."""

_Numbers = Mapping[tuple[str, str], float]
"""A number for each question, by benchmark and question."""


def change_against_sources(
    name: str,
    runs: tuple[RunResults, RunResults],
    merges: Sequence[str],
    sources: Sequence[str],
    *,
    same_questions: bool,
) -> Figure | None:
    """By how much a metric of merges is higher against sources in the second run than in the first.

    With its standard error. None without sources, and where the journal lacks the numbers of two
    questions of a benchmark.
    """
    if not sources or name not in NUMBERS:
        return None
    before, after = (_differences(run, name, merges, sources) for run in runs)
    search, again = (run.benchmarks_of(name) for run in runs)
    if same_questions:
        both = before.keys() & after.keys()
        return _mean({place: after[place] - before[place] for place in both}, again)
    first, second = _mean(before, search), _mean(after, again)
    if first is None or second is None:
        return None
    error = math.hypot(first.standard_error or 0.0, second.standard_error or 0.0)
    return Figure(second.value - first.value, standard_error=error)


def _differences(
    run: RunResults, name: str, merges: Sequence[str], sources: Sequence[str]
) -> _Numbers:
    """The mean over merges minus that over sources, on each question that all have answered."""
    ours, theirs = (
        [_by_question(run, name, evaluation) for evaluation in evaluations]
        for evaluations in (merges, sources)
    )
    common = set.intersection(*(set(each) for each in (*ours, *theirs)))
    return {
        place: fmean(each[place] for each in ours) - fmean(each[place] for each in theirs)
        for place in common
    }


def _by_question(run: RunResults, name: str, evaluation: str) -> _Numbers:
    """The mean over an evaluation's answers to each question."""
    repeats = {benchmark.name: benchmark.repeats for benchmark in run.spec.benchmarks}
    numbers: dict[tuple[str, str], list[float]] = {}
    for row in read_outcomes(run.run_dir, evaluation):
        place = row.benchmark, question_of(row.question, repeats[row.benchmark])
        numbers.setdefault(place, []).append(NUMBERS[name](row))
    return {place: fmean(each) for place, each in numbers.items()}


def _mean(numbers: _Numbers, weights: Mapping[str, float]) -> Figure | None:
    """The mean over the questions of each benchmark, then over the benchmarks with weights."""
    figures = []
    for name in weights:
        values = [number for (benchmark, _), number in numbers.items() if benchmark == name]
        if len(values) < 2:
            return None
        error = stdev(values) / math.sqrt(len(values))
        figures.append(Figure(fmean(values), standard_error=error))
    return mean_figure(figures, list(weights.values()))
