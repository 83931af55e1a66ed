"""The chosen questions, written as JSON Lines that EvalScope reads.

The copy holds just what the adapter reads. With the original folder EvalScope might go to the hub
(where a path is wrong) or delete a file that it cannot read, and its own limit counts questions for
each subset. EvalScope itself is not needed here.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apbmm_common.datasets.benchmark_folders.layouts import Layout, layout_of
from apbmm_common.datasets.benchmark_folders.selection import Places, Selection, select_questions
from apbmm_common.datasets.data_files import Record
from apbmm_common.run_file import BenchmarkSection
from apbmm_common.run_file.sections.benchmarks import ANSWER_ADAPTER


@dataclass(frozen=True)
class ChosenQuestions:
    """A benchmark's questions as EvalScope will read them.

    ``positions`` and ``notes`` as in `Selection`. ``arguments`` go to EvalScope's ``dataset_args``.
    ``rows`` has the file and row of each question by its id: that of the data or, without one, its
    position.
    """

    benchmark: BenchmarkSection
    folder: Path
    positions: tuple[int, ...] | None
    arguments: dict[str, Any]
    notes: tuple[str, ...] = ()
    rows: Mapping[str, str] = field(default_factory=dict)


def choose_questions(
    benchmark: BenchmarkSection, places: Places, scratch: Path, seed: int = 0
) -> ChosenQuestions:
    """Copy the questions that `select_questions` chooses to ``scratch/NAME``.

    Raises `SourceError` as that does.
    """
    selection = select_questions(benchmark, places, seed)
    layout = layout_of(benchmark.adapter)
    arguments = {} if benchmark.adapter == ANSWER_ADAPTER else dict(benchmark.arguments)
    if layout is None:
        folder = places if isinstance(places, Path) else places[0]
        return ChosenQuestions(benchmark, folder, None, arguments)
    target = scratch / benchmark.name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    arguments = {**layout.arguments, **arguments}
    if layout.by_subset:
        subsets = list(dict.fromkeys(selection.subsets))
        arguments["subset_list"] = subsets
        for subset in subsets:
            pairs = zip(selection.subsets, selection.records, strict=True)
            _write(
                target / f"{subset}_{layout.split}.jsonl", [r for of, r in pairs if of == subset]
            )
    else:
        _write(target / f"{layout.split}.jsonl", selection.records)
    for split, records in selection.examples.items():
        _write(target / f"{split}.jsonl", records)
    return ChosenQuestions(
        benchmark,
        target,
        selection.positions,
        arguments,
        selection.notes,
        dict(zip(_identities(layout, selection), selection.rows, strict=True)),
    )


def _identities(layout: Layout, selection: Selection) -> Iterator[str]:
    """The ids that the chosen questions will have."""
    if len(set(selection.subsets)) > 1:
        asked: Counter[str] = Counter()
        for subset in selection.subsets:
            yield f"{subset}/{asked[subset]}"
            asked[subset] += 1
        return
    for position, record in zip(selection.positions or (), selection.records, strict=True):
        yield str(record[layout.id] if layout.id else position)


def _write(file: Path, records: Sequence[Record]) -> None:
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    file.write_text("".join(lines), encoding="utf-8")
