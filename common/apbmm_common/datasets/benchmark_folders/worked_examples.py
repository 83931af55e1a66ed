"""The worked examples of a benchmark, which stand before each question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from apbmm_common.datasets.benchmark_folders.layouts import Layout
from apbmm_common.datasets.benchmark_folders.questions import read_questions
from apbmm_common.datasets.benchmark_folders.split_files import files_of_split
from apbmm_common.datasets.data_files import Record, read_rows
from apbmm_common.errors import SourceError
from apbmm_common.run_file import BenchmarkSection


def worked_examples(
    benchmark: BenchmarkSection,
    layout: Layout,
    subsets: Sequence[str],
    places: tuple[Path, ...],
) -> Iterator[tuple[str, tuple[Record, ...]]]:
    """The worked examples of each further split, if any are wanted, by their file's name."""
    if not benchmark.arguments.get("few_shot_num", layout.shots):
        return
    for split in layout.also:
        names = [f"{s}_{split}" for s in dict.fromkeys(subsets)] if layout.by_subset else [split]
        for name in names:
            yield name, tuple(_examples(benchmark, layout, (name, split), places))


def _examples(
    benchmark: BenchmarkSection, layout: Layout, names: Sequence[str], places: tuple[Path, ...]
) -> Iterator[Record]:
    """The worked examples in the first of the files ``names`` that is there."""
    folder = places[0] if places[0].is_dir() else places[0].parent
    split = names[-1]
    files = next((found for name in names if (found := files_of_split(name, folder))), [])
    if not files:
        raise SourceError(
            f"{folder} holds no {split} split, of which {benchmark.adapter} takes worked examples",
            "arguments = { few_shot_num = 0 } asks without them",
        )
    rows = [row for file in files for row in read_rows(file)]
    yield from read_questions(benchmark.adapter, layout, rows).records.values()
