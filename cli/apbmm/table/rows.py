"""The tables of a run: a row for each evaluation, or for each answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from apbmm.results.figures import BenchmarkFigures
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm.table.columns import (
    BENCHMARK,
    EVALUATION,
    LAYER,
    LAYER_OF_SOURCE,
    METRIC,
    OBJECTIVE,
    OUTCOME,
    OUTSIDE,
    OUTSIDE_OF_SOURCE,
    PARAMETER,
    PART,
    PART_OF_SOURCE,
    VECTOR,
    Column,
    named,
)
from apbmm_common.repetitions import split_id
from apbmm_master.journal.storage.store import read_outcomes

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by column name. A value that a row lacks is not known, or does not apply."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def evaluation_table(results: RunResults) -> Table:
    """A row for each evaluation of the run, in the order of their proposals.

    Columns named after something that no evaluation has (a metric, say) are left out.
    """
    found: dict[str, tuple[int, Column]] = {}
    rows = []
    for evaluation in results.evaluations:
        row = dict(_fixed(results, evaluation))
        for group, column, value in _named_after_the_run(results, evaluation):
            if value is not None:
                found.setdefault(column.name, (group, column))
                row[column.name] = value
        rows.append(row)
    of_the_run = [column for _, column in sorted(found.values(), key=lambda pair: pair[0])]
    return Table((*EVALUATION, *of_the_run), tuple(rows))


def _fixed(results: RunResults, each: EvaluationResult) -> Iterator[tuple[str, Any]]:
    yield "run", results.run
    yield "rehearsal", results.rehearsal
    yield "evaluation", each.id
    yield "state", str(each.state)
    yield "breaks", ", ".join(each.breaks)
    for column in EVALUATION:
        if column.name not in ("run", "rehearsal", "evaluation", "state", "breaks"):
            yield column.name, getattr(each, column.name)


def _named_after_the_run(
    results: RunResults, each: EvaluationResult
) -> Iterator[tuple[int, Column, Any]]:
    """Columns with their values, and the number of the group of columns that they stand in."""
    for name, value in zip(results.objectives, each.objectives or (), strict=False):
        yield 0, named(OBJECTIVE, name), value
    for group, benchmark in enumerate((b.name for b in results.spec.benchmarks), 1):
        if benchmark in each.benchmarks:
            for column, value in _of_benchmark(benchmark, each.benchmarks[benchmark]):
                yield group, column, value
    last = len(results.spec.benchmarks) + 1
    for source in results.weighed if each.source_weights else ():
        for place, column, weight in _of_source(each, source, is_named=len(results.weighed) > 1):
            yield last + place, column, weight
    for name, value in each.parameters.items():
        yield last + 2, named(PARAMETER, name), value
    for number, component in enumerate(each.vector):
        yield last + 3, named(VECTOR, number), component


def _of_source(
    each: EvaluationResult, source: str, *, is_named: bool
) -> Iterator[tuple[int, Column, float]]:
    """A source's weights; ``is_named`` where the columns have its name."""
    whose = (source,) if is_named else ()
    for number, weight in enumerate(each.source_weights[source]):
        yield 0, named(LAYER_OF_SOURCE if whose else LAYER, number, *whose), weight
    for part, weights in each.part_weights[source].items():
        for number, weight in enumerate(weights):
            yield 0, named(PART_OF_SOURCE if whose else PART, number, part, *whose), weight
    for name, weight in each.outside_source_weights[source].items():
        yield 1, named(OUTSIDE_OF_SOURCE if whose else OUTSIDE, name, *whose), weight


def _of_benchmark(benchmark: str, figures: BenchmarkFigures) -> Iterator[tuple[Column, Any]]:
    counts = (figures.answers, figures.truncated, figures.malformed)
    for column, count in zip(BENCHMARK, counts, strict=True):
        yield named(column, benchmark), count
    for metric in figures.metrics:
        found = figures.figure(metric)
        assert found is not None
        values = (found.value, found.low, found.high, found.standard_error)
        for column, value in zip(METRIC, values, strict=True):
            yield named(column, benchmark, metric), value


def outcome_table(results: RunResults) -> Table:
    """A row for each answer that the journal has, in the order of the results."""
    repeats = {benchmark.name: benchmark.repeats for benchmark in results.spec.benchmarks}
    rows = tuple(
        {
            "run": results.run,
            "rehearsal": results.rehearsal,
            "evaluation": row.evaluation,
            "benchmark": row.benchmark,
            "question": question,
            "repetition": repetition,
            "score": row.score,
            "tokens": row.tokens,
            "finish_reason": row.finish_reason,
        }
        for row in read_outcomes(results.run_dir)
        for question, repetition in [split_id(row.question, repeats[row.benchmark])]
    )
    return Table(OUTCOME, rows)
