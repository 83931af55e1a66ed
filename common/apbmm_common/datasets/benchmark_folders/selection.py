"""A benchmark's data is read whole, and the questions to ask are chosen.

Rows that are no questions are left out and counted, other faults are raised with file and row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from apbmm_common.datasets.benchmark_folders import notes
from apbmm_common.datasets.benchmark_folders.choice import chosen_positions, searched_or_held_out
from apbmm_common.datasets.benchmark_folders.layouts import layout_with_arguments
from apbmm_common.datasets.benchmark_folders.questions import read_questions
from apbmm_common.datasets.benchmark_folders.split_files import (
    question_files,
    require_data,
    subset_of,
)
from apbmm_common.datasets.benchmark_folders.worked_examples import worked_examples
from apbmm_common.datasets.data_files import Record, read_rows
from apbmm_common.errors import SourceError
from apbmm_common.run_file import BenchmarkSection

Places = Path | Sequence[Path]
"""Where a benchmark's data is: a folder, a file, or several files that are read as one."""


@dataclass(frozen=True)
class Selection:
    """The questions of a benchmark that are asked, and what is to be known of its other rows.

    Attributes:
        positions: 0-based positions of the chosen rows in the data, all its rows counted. None for
            an adapter whose files apbmm does not know: EvalScope then asks all that it finds.
        records: the chosen questions, in the order in which they are asked.
        rows: their files and rows.
        subsets: their subsets, where each data file is a subset.
        examples: the records of further splits, by split.
        notes: what surprises, such as rows that were left out: one line each.
        left_to_other: how many more questions are chosen that ``holdout`` leaves to the other of
            search and confirmation.
    """

    positions: tuple[int, ...] | None
    records: tuple[Record, ...] = ()
    rows: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    examples: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left_to_other: int = 0


def places_of(benchmark: BenchmarkSection) -> tuple[Path, ...]:
    """The folder, file or files that the run file itself names."""
    paths = (benchmark.path,) if isinstance(benchmark.path, str) else benchmark.path
    return tuple(map(Path, paths))


def select_questions(benchmark: BenchmarkSection, places: Places, seed: int = 0) -> Selection:
    """Read all rows of a benchmark and choose the questions to ask; ``seed`` is of ``sample``.

    Raises `SourceError` for data that is missing or cannot be read, and `DataError` for rows that
    cannot be used as they stand.
    """
    layout = layout_with_arguments(benchmark)
    places = (places,) if isinstance(places, Path) else tuple(places)
    with _naming(benchmark):
        if layout is None:
            require_data(benchmark, places)
            return Selection(None)
        files = question_files(benchmark, layout, places)
        rows = [row for file in files for row in read_rows(file)]
        questions = read_questions(benchmark.adapter, layout, rows)
        chosen = chosen_positions(benchmark, questions, len(rows), seed)
        positions = searched_or_held_out(benchmark, questions, chosen, seed)
        subsets = tuple(subset_of(rows[position].file, layout.split) for position in positions)
        examples = dict(worked_examples(benchmark, layout, subsets, places))
    told = questions.notes
    if benchmark.questions is not None:
        told = (*told, *notes.on_order(rows, positions))
    return Selection(
        positions,
        tuple(questions.records[position] for position in positions),
        tuple(rows[position].where for position in positions),
        subsets if layout.by_subset else (),
        examples,
        told,
        len(chosen) - len(positions),
    )


def columns_of(benchmark: BenchmarkSection, place: Path) -> tuple[str, ...]:
    """The columns of a benchmark's first row that is not blank; none where apbmm does not know its
    adapter's files.

    Raises `SourceError` for data that is missing or cannot be read.
    """
    layout = layout_with_arguments(benchmark)
    if layout is None:
        return ()
    with _naming(benchmark):
        files = question_files(benchmark, layout, (place,))
        rows = (row for file in files for row in read_rows(file) if not row.is_blank)
        return next((tuple(map(str, row.values)) for row in rows), ())


@contextmanager
def _naming(benchmark: BenchmarkSection) -> Iterator[None]:
    """Puts the benchmark's name before every `SourceError` that is raised within."""
    try:
        yield
    except SourceError as error:
        named = f"benchmark {benchmark.name}: {error.message}"
        raise type(error)(named, error.hint) from error
