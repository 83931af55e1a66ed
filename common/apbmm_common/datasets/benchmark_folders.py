"""Benchmark folders: whether they are complete, and which of their questions are asked.

The chosen questions are copied into the worker's scratch folder as JSON Lines, and EvalScope gets
the copy. With the original folder EvalScope might go to the hub (where a path is wrong) or delete a
file that it cannot read, and its own limit counts questions for each subset. EvalScope itself is
not needed here, so a wrong path is reported at once.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apbmm_common.errors import SourceError
from apbmm_common.run_file import BenchmarkSection
from apbmm_common.run_file.schema import is_own_adapter

_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

Record = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """What an adapter reads: the scored split, its columns, further splits ``also``, arguments."""

    split: str
    columns: tuple[str, ...]
    also: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)


LAYOUTS = {
    "aime24": Layout("test", ("problem",)),
    "aime25": Layout("test", ("problem", "answer")),
    "gpqa_diamond": Layout(
        "train",
        ("Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))),
    ),
    # Its subset is called "main" on the hub; a local folder has the default one only. The train
    # split holds its four worked examples.
    "gsm8k": Layout("test", ("question", "answer"), ("train",), {"subset_list": ["default"]}),
    "math_500": Layout("test", ("problem", "solution", "answer", "level", "unique_id")),
}
OWN_LAYOUT = Layout("test", ("id", "question", "answer"))


@dataclass(frozen=True)
class ChosenQuestions:
    """A benchmark's questions as EvalScope will read them.

    ``positions``: 0-based positions of the chosen questions in the original data file, in the
    order in which they are asked. None for an adapter whose files apbmm does not know: all its
    questions are asked, from the folder itself. ``arguments`` go to EvalScope's ``dataset_args``.
    """

    benchmark: BenchmarkSection
    folder: Path
    positions: tuple[int, ...] | None
    arguments: dict[str, Any]


def layout_of(adapter: str) -> Layout | None:
    """The layout of an adapter's files, or None if apbmm does not know it."""
    return OWN_LAYOUT if is_own_adapter(adapter) else LAYOUTS.get(adapter)


def check_folder(benchmark: BenchmarkSection, folder: Path) -> None:
    """Raise `SourceError` unless ``folder`` exists and holds the benchmark's data. Fast."""
    if not folder.is_dir():
        raise SourceError(
            f"benchmark {benchmark.name}: {folder} is not a folder",
            "benchmarks are read from local folders only; nothing is downloaded",
        )
    layout = layout_of(benchmark.adapter)
    if layout is not None:
        for split in (layout.split, *layout.also):
            _data_file(benchmark, folder, split)
        return
    if benchmark.questions is not None or benchmark.question_ids is not None:
        raise SourceError(
            f"benchmark {benchmark.name}: questions can be chosen for "
            f"{', '.join(sorted(LAYOUTS))} and apbmm's own, not for {benchmark.adapter}",
            "leave questions and question_ids out, or use EvalScope's own arguments",
        )
    if not any(path.suffix in _SUFFIXES and path.stat().st_size for path in folder.rglob("*")):
        raise SourceError(
            f"benchmark {benchmark.name}: {folder} holds no data",
            f"looked for {', '.join('*' + suffix for suffix in _SUFFIXES)}",
        )


def choose_questions(benchmark: BenchmarkSection, folder: Path, scratch: Path) -> ChosenQuestions:
    """Copy the chosen questions to ``scratch/NAME`` and return where they are.

    Raises `SourceError` for missing, unreadable or too few data, or columns that are not there.
    """
    check_folder(benchmark, folder)
    layout = layout_of(benchmark.adapter)
    if layout is None:
        return ChosenQuestions(benchmark, folder, None, dict(benchmark.arguments))
    records = _records(benchmark, _data_file(benchmark, folder, layout.split), layout.columns)
    positions = chosen_positions(benchmark, len(records))
    target = scratch / benchmark.name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _write(target / f"{layout.split}.jsonl", [records[position] for position in positions])
    for split in layout.also:
        others = _records(benchmark, _data_file(benchmark, folder, split), layout.columns)
        _write(target / f"{split}.jsonl", others)
    return ChosenQuestions(
        benchmark, target, positions, {**layout.arguments, **benchmark.arguments}
    )


def chosen_positions(benchmark: BenchmarkSection, available: int) -> tuple[int, ...]:
    """0-based positions of the questions to ask, out of ``available``."""
    if benchmark.question_ids is not None:
        beyond = [position for position in benchmark.question_ids if position >= available]
        if beyond:
            raise SourceError(
                f"benchmark {benchmark.name}: question_ids names {beyond[0]}, but its data holds "
                f"{available} questions (0 to {available - 1})"
            )
        return benchmark.question_ids
    if benchmark.questions is not None and benchmark.questions > available:
        raise SourceError(
            f"benchmark {benchmark.name}: {benchmark.questions} questions wanted, but its data "
            f"holds {available}"
        )
    return tuple(range(benchmark.questions or available))


def _data_file(benchmark: BenchmarkSection, folder: Path, split: str) -> Path:
    """The file of one split: SPLIT.jsonl, .json, .csv or .parquet, or the hub's parquet name."""
    patterns = [f"{split}{suffix}" for suffix in _SUFFIXES]
    patterns += [f"{prefix}{split}-*.parquet" for prefix in ("", "data/", "main/")]
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if not found:
        raise SourceError(
            f"benchmark {benchmark.name}: {folder} holds no data for {benchmark.adapter}",
            f"expected {split}.jsonl (or .csv, .parquet) there",
        )
    if len(found) > 1:
        raise SourceError(
            f"benchmark {benchmark.name}: {folder} holds several files for the {split} split: "
            f"{', '.join(path.name for path in found)}",
            "keep one",
        )
    return found[0]


def _records(benchmark: BenchmarkSection, file: Path, columns: Sequence[str]) -> list[Record]:
    """All records of a data file, with the columns checked."""
    try:
        records = _read(file)
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(f"benchmark {benchmark.name}: {file} is damaged: {error}") from error
    if not records:
        raise SourceError(f"benchmark {benchmark.name}: {file} holds no questions")
    for number, record in enumerate(records):
        missing = [column for column in columns if record.get(column) is None]
        if missing:
            raise SourceError(
                f"benchmark {benchmark.name}: question {number} of {file} has no {missing[0]!r}",
                f"{benchmark.adapter} reads {', '.join(columns)}",
            )
    return records


def _read(file: Path) -> list[Record]:
    if file.suffix == ".parquet":
        import pyarrow.parquet

        rows: list[Record] = pyarrow.parquet.read_table(file).to_pylist()
        return rows
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".csv":
        return [dict(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    if file.suffix == ".json":
        values = json.loads(text)
    else:
        values = [_parsed(line, n) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError("not a list of JSON objects")
    return values


def _parsed(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: {error}") from None


def _write(file: Path, records: Sequence[Record]) -> None:
    lines = (json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    file.write_text("".join(lines), encoding="utf-8")
