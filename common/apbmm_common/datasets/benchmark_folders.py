"""A benchmark's data: read through what its adapter needs, and which questions are asked.

Every row is read before anything starts, by `apbmm check` and by the workers alike. Rows that are
no questions are left out and counted, other faults are raised with file and row. The chosen
questions are copied into the worker's scratch folder as JSON Lines that hold just what the adapter
reads, and EvalScope gets the copy. With the original folder EvalScope might go to the hub (where a
path is wrong) or delete a file that it cannot read, and its own limit counts questions for each
subset. EvalScope itself is not needed here.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from apbmm_common.answer_rules import AnswerRule
from apbmm_common.datasets.data_files import (
    SUFFIXES,
    Row,
    is_data_file,
    read_rows,
    require_no_pointer,
)
from apbmm_common.datasets.general_adapters import (
    DEFAULT,
    LETTERS,
    files_of_subset,
    question_or_messages,
    question_with_choices,
    subset_of,
)
from apbmm_common.errors import DataError, SourceError
from apbmm_common.run_file import BenchmarkSection
from apbmm_common.run_file.sections.benchmarks import ANSWER_ADAPTER, is_own_adapter

Record = dict[str, Any]
Places = Path | Sequence[Path]
"""Where a benchmark's data is: a folder, a file, or several files that are read as one."""

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet\Z")
_DEGREES = re.compile(r"(?:\^?\s*\{?\s*\^?\s*\\circ\s*\}?|\\degree|\u00b0|degrees?)\s*\Z")
_READ_AS_WRITTEN = re.compile(r"\s*(?:\$?-?[0-9][0-9,]*(?:\.[0-9]+)?\$?|\\boxed\{[0-9]+\})\s*")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Layout:
    """What an adapter reads.

    Attributes:
        split: the scored split.
        columns: its columns. A row with a blank cell in one of them is no question.
        optional: columns that may be missing; the copy has them empty.
        id: the column of ids, which the copy then always has, without duplicates.
        stratum: a column whose values a random sample holds in equal shares, where it is there.
        also: further splits, of worked examples, which are read if any are wanted.
        shots: how many worked examples the adapter takes by default.
        by_subset: whether each data file is a subset of its own.
        instead: columns that may stand in the place of a column.
        arguments: arguments of EvalScope that a local copy needs.
        complete: makes the record of a row what the adapter expects, or None of a row that is no
            question. Raises `ValueError` for what it could not use.
    """

    split: str
    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    id: str = ""
    stratum: str = ""
    also: tuple[str, ...] = ()
    shots: int = 0
    by_subset: bool = False
    instead: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    complete: Callable[[Record, Row], Record | None] = lambda record, _: record


def _with_whole_number(record: Record, _: Row) -> Record:
    """A problem whose answer is a whole number: 336 for what public copies write ``336^\\circ``."""
    answer = record["answer"]
    written = re.sub(r"\\(?:boxed|text|mathrm)\s*\{([^{}]*)\}", r"\1", answer).strip().strip("$")
    plain = _DEGREES.sub("", written.strip())
    try:
        value = Decimal(plain.replace(",", "").strip().rstrip("."))
        whole = value.is_finite() and value == value.to_integral_value()
    except InvalidOperation:
        whole = False
    if not whole:
        raise ValueError(f"the answer {answer!r} is not a whole number, and no other is scored")
    # What EvalScope reads itself stays as it is written.
    return record if _READ_AS_WRITTEN.fullmatch(answer) else {**record, "answer": str(int(value))}


def _with_final_answer(record: Record, _: Row) -> Record:
    """A problem of gsm8k, whose answer ends with ``#### NUMBER``."""
    final = record["answer"].rpartition("####")[2].strip()
    if not re.search(r"\d", final) or len(final) > 40:
        raise ValueError("the answer does not end with #### and a number")
    return _without_full_stop(record)


def _without_full_stop(record: Record) -> Record:
    """A problem whose answer ends without the end of a sentence, which no comparison would read."""
    return {**record, "answer": re.sub(r"(?<!\.)\.\s*\Z", "", record["answer"])}


def _with_level(record: Record, _: Row) -> Record:
    """A problem of math_500, whose level is 1 to 5: EvalScope has a subset for each."""
    level = re.fullmatch(r"(?:Level\s*)?([1-5])", record["level"].strip(), re.IGNORECASE)
    if level is None:
        raise ValueError(f"the level is {record['level']!r}; there are levels 1 to 5")
    return {**_without_full_stop(record), "level": int(level[1])}


def _with_solution(record: Record, row: Row) -> Record:
    """A problem of aime24, whose answer may be called solution."""
    answer = record["answer"] or record["solution"]
    if not answer:
        raise ValueError("there is neither an answer nor a solution")
    return _with_whole_number({"problem": record["problem"], "answer": answer}, row)


LAYOUTS = {
    "aime24": Layout("test", ("problem",), ("answer", "solution"), complete=_with_solution),
    "aime25": Layout("test", ("problem", "answer"), complete=_with_whole_number),
    "aime26": Layout("test", ("problem", "answer"), complete=_with_whole_number),
    "gpqa_diamond": Layout(
        "train",
        ("Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))),
        stratum="High-level domain",
    ),
    # Its subset is called "main" on the hub; a local folder has the default one only. The train
    # split holds its four worked examples.
    "gsm8k": Layout(
        "test",
        ("question", "answer"),
        also=("train",),
        shots=4,
        arguments={"subset_list": ["default"]},
        complete=_with_final_answer,
    ),
    "math_500": Layout(
        "test",
        ("problem", "answer", "level"),
        ("solution",),
        id="unique_id",
        stratum="level",
        complete=_with_level,
    ),
    "general_qa": Layout(
        "test",
        ("answer",),
        by_subset=True,
        instead={"answer": ("response",)},
        complete=question_or_messages,
    ),
    "general_mcq": Layout(
        "val",
        ("question",),
        also=("dev",),
        by_subset=True,
        complete=partial(question_with_choices, several=False),
    ),
}
_FEWEST_ORDERED = 8
_MOST_CLASSES = 50
OWN_LAYOUT = Layout("test", ("question", "answer"), id="id", stratum="subset")


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


def layout_of(adapter: str) -> Layout | None:
    """The layout of an adapter's files, or None if apbmm does not know it."""
    return OWN_LAYOUT if is_own_adapter(adapter) else LAYOUTS.get(adapter)


def places_of(benchmark: BenchmarkSection) -> tuple[Path, ...]:
    """The folder, file or files that the run file itself names."""
    paths = (benchmark.path,) if isinstance(benchmark.path, str) else benchmark.path
    return tuple(map(Path, paths))


def select_questions(benchmark: BenchmarkSection, places: Places, seed: int = 0) -> Selection:
    """Read all rows of a benchmark and choose the questions to ask; ``seed`` is of ``sample``.

    Raises `SourceError` for data that is missing or cannot be read, and `DataError` for rows that
    cannot be used as they stand.
    """
    layout = _layout(benchmark)
    places = (places,) if isinstance(places, Path) else tuple(places)
    if layout is None:
        _check_unknown(benchmark, places)
        return Selection(None)
    with _naming(benchmark):
        files = _files_by_subset if layout.by_subset else _data_files
        rows = [row for file in files(benchmark, layout, places) for row in read_rows(file)]
        read = _questions(benchmark.adapter, layout, rows)
        chosen = _chosen(benchmark, read, len(rows), seed)
        positions = _searched_or_held_out(benchmark, read, chosen, seed)
        subsets = tuple(subset_of(rows[position].file, layout.split) for position in positions)
        examples = dict(_worked_examples(benchmark, layout, subsets, places))
    notes = read.notes
    if benchmark.questions is not None:
        notes = (*notes, *_order_notes(rows, positions))
    return Selection(
        positions,
        tuple(read.records[position] for position in positions),
        tuple(rows[position].where for position in positions),
        subsets if layout.by_subset else (),
        examples,
        notes,
        len(chosen) - len(positions),
    )


def columns_of(benchmark: BenchmarkSection, place: Path) -> tuple[str, ...]:
    """The columns of a benchmark's first row that is not blank; none where apbmm does not know its
    adapter's files.

    Raises `SourceError` for data that is missing or cannot be read.
    """
    layout = _layout(benchmark)
    if layout is None:
        return ()
    with _naming(benchmark):
        files = (_files_by_subset if layout.by_subset else _data_files)(benchmark, layout, (place,))
        rows = (row for file in files for row in read_rows(file) if not row.is_blank)
        return next((tuple(map(str, row.values)) for row in rows), ())


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


# ---- files ---------------------------------------------------------------------------------------


def _check_unknown(benchmark: BenchmarkSection, places: tuple[Path, ...]) -> None:
    """Raise `SourceError` unless there is data for an adapter that reads the folder itself."""
    folder = places[0]
    if len(places) > 1 or not folder.is_dir():
        raise SourceError(
            f"benchmark {benchmark.name}: {folder} is not a folder",
            f"{benchmark.adapter} reads a local folder; nothing is downloaded",
        )
    if benchmark.sample is not None or benchmark.question_ids is not None or benchmark.holdout:
        raise SourceError(
            f"benchmark {benchmark.name}: sample, question_ids and holdout are for "
            f"{', '.join(sorted(LAYOUTS))} and apbmm's own, not for {benchmark.adapter}",
            "questions takes the first ones of any adapter",
        )
    with _naming(benchmark):
        found = [
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.stat().st_size
        ]
        if not found:
            raise SourceError(f"{folder} holds no data", f"looked for {_patterns('*')}")
        for file in found:
            require_no_pointer(file)


def _files_by_subset(
    benchmark: BenchmarkSection, layout: Layout, places: tuple[Path, ...]
) -> list[Path]:
    """The files of the subsets that are asked, in the order in which their rows count."""
    wanted = benchmark.arguments.get("subset_list")
    if len(places) == 1 and places[0].is_dir():
        found = [
            file
            for subset in wanted or [DEFAULT]
            for file in files_of_subset(places[0], layout.split, subset)
        ]
        if not found and not wanted:
            found = _only_file(places[0], layout.also)
    else:
        found = _data_files(benchmark, layout, places)
    if wanted is None and found:
        return found
    subsets = {subset_of(file, layout.split): file for file in found}
    lacking = [subset for subset in wanted or [DEFAULT] if subset not in subsets]
    if lacking:
        raise SourceError(
            f"{', '.join(map(str, places))} holds no data of the subset {lacking[0]}",
            f"expected {lacking[0]}_{layout.split}.jsonl or {lacking[0]}.jsonl (or .csv, ...)",
        )
    return [file for file in found if subset_of(file, layout.split) in (wanted or [DEFAULT])]


def _data_files(
    benchmark: BenchmarkSection,  # noqa: ARG001 - as `_files_by_subset`
    layout: Layout,
    places: tuple[Path, ...],
) -> list[Path]:
    """The files of the scored split, in the order in which their rows count."""
    missing = [place for place in places if not place.exists()]
    if missing:
        raise SourceError(
            f"{missing[0]} is not a folder or file that exists",
            "benchmarks are read from this host only; nothing is downloaded",
        )
    if len(places) == 1 and places[0].is_dir():
        found = _files_of(layout.split, places[0]) or _only_file(places[0])
        if not found:
            names = [path.name for path in sorted(places[0].iterdir())]
            raise SourceError(
                f"{places[0]} holds no data of the split that is asked; in it is "
                f"{', '.join(names[:_MOST_NAMED]) or 'nothing'}",
                f"expected {layout.split}.jsonl (or .csv, .parquet) there; path may also name a "
                "file or a list of files",
            )
        return found
    for place in places:
        if place.is_dir() or place.suffix.lower() not in SUFFIXES:
            raise SourceError(f"{place} is not a data file", f"known are {_patterns('*')}")
    return list(places)


def _files_of(split: str, folder: Path) -> list[Path]:
    """The file of one split in a folder, or its numbered Parquet files; empty without any."""
    patterns = [f"{split}{suffix}" for suffix in SUFFIXES]
    patterns += [f"{prefix}{split}-*.parquet" for prefix in ("", "data/", "main/")]
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if found and not _is_numbered(found) and len(found) > 1:
        raise SourceError(
            f"{folder} holds several files for the {split} split: "
            f"{', '.join(path.name for path in found)}",
            "keep one, or name the files in path",
        )
    return found


def _only_file(folder: Path, others: tuple[str, ...] = ()) -> list[Path]:
    """The one data file of a folder, whatever its name, or its complete numbered files.

    Files whose names end like ``others`` are of other splits.
    """
    found = [
        path
        for path in sorted(folder.iterdir())
        if is_data_file(path) and not path.stem.endswith(others)
    ]
    if found and not _is_numbered(found) and len(found) > 1:
        named = ", ".join(path.name for path in found[:_MOST_NAMED])
        raise SourceError(
            f"{folder} holds {len(found)} data files ({named}) and none named for its split",
            "name a file in path, or a list of files that are to be asked together",
        )
    return found


def _is_numbered(files: list[Path]) -> bool:
    """Whether files are all parts of one table, ``NAME-00000-of-00002.parquet`` and so on.

    Raises `SourceError` where they are, but some are missing.
    """
    parts = [_SHARD.search(path.name) for path in files]
    names = {str(path)[: -len("-00000-of-00000.parquet")] for path in files}
    if len(names) != 1 or not all(parts):
        return False
    expected = int(parts[0][2]) if parts[0] else 0
    if [int(part[1]) for part in parts if part] != list(range(expected)):
        raise SourceError(
            f"{files[0].parent} holds {len(files)} of {expected} files of one table",
            "download the others",
        )
    return True


def _worked_examples(
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
    files = next((found for name in names if (found := _files_of(name, folder))), [])
    if not files:
        raise SourceError(
            f"{folder} holds no {split} split, of which {benchmark.adapter} takes worked examples",
            "arguments = { few_shot_num = 0 } asks without them",
        )
    rows = [row for file in files for row in read_rows(file)]
    yield from _questions(benchmark.adapter, layout, rows).records.values()


def _patterns(stem: str) -> str:
    return ", ".join(stem + suffix for suffix in SUFFIXES)


def _write(file: Path, records: Sequence[Record]) -> None:
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    file.write_text("".join(lines), encoding="utf-8")


# ---- rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """The questions among a benchmark's rows, by position, and what each is drawn beside."""

    records: dict[int, Record]
    strata: dict[int, str]
    skipped: dict[int, str]
    notes: tuple[str, ...]


def _layout(benchmark: BenchmarkSection) -> Layout | None:
    """The layout of a benchmark's files, with the columns that its arguments name."""
    if benchmark.adapter == "general_mcq":
        extra = benchmark.arguments.get("extra_params")
        several = isinstance(extra, Mapping) and bool(extra.get("multiple_correct"))
        return replace(
            LAYOUTS["general_mcq"], complete=partial(question_with_choices, several=several)
        )
    if benchmark.adapter != ANSWER_ADAPTER:
        return layout_of(benchmark.adapter)
    rule = AnswerRule.of(benchmark.arguments)

    def complete(record: Record, row: Row) -> Record:
        cells = {column: row.text(column) or "" for column in rule.columns_asked(row.values)}
        try:
            target = rule.target(record[rule.answer])
        except ValueError as error:
            raise ValueError(f"the answer {record[rule.answer]!r} {error}") from None
        return {
            "id": record[rule.id],
            "question": rule.asked(cells),
            "answer": target,
            "rule": dict(benchmark.arguments),
        }

    return Layout("test", (rule.question, rule.answer), (), rule.id, rule.subset, complete=complete)


def _questions(adapter: str, layout: Layout, rows: Sequence[Row]) -> _Read:
    """What of the rows is asked. Raises `DataError` for a row that the adapter could not use."""
    records: dict[int, Record] = {}
    strata: dict[int, str] = {}
    skipped: dict[int, str] = {}
    ids: Counter[str] = Counter()
    for position, row in enumerate(rows):
        lack = _lack(adapter, layout, row)
        if lack is not None:
            skipped[position] = lack
            continue
        record: Record = {column: _cell(layout, row, column) for column in layout.columns}
        record |= {column: row.text(column) or "" for column in layout.optional}
        if layout.id:
            own = row.text(layout.id) or str(position)
            ids[own] += 1
            record[layout.id] = own if ids[own] == 1 else f"{own}#{position}"
        try:
            completed = layout.complete(record, row)
        except ValueError as error:
            raise DataError(f"{row.where}: {error}") from None
        if completed is None:
            skipped[position] = "holds no question or no answer"
            continue
        records[position] = completed
        strata[position] = _stratum(layout, row)
    notes = (*_notes(rows, skipped, ids), *_ambiguous(rows, records))
    if not records:
        raise DataError("; ".join(["its data holds no questions", *notes]))
    return _Read(records, strata, skipped, notes)


def _lack(adapter: str, layout: Layout, row: Row) -> str | None:
    """Why a row is no question; None for a question. Raises `DataError` for a missing column."""
    if row.is_blank:
        return "is blank"
    for column in layout.columns:
        if not any(name in row.values for name in _names(layout, column)):
            seen = ", ".join(map(str, row.values))
            near = get_close_matches(column, row.values, 1) if adapter == ANSWER_ADAPTER else []
            raise DataError(
                f"{row.where}: there is no {column!r}, only {seen}",
                f'did you mean "{near[0]}"?'
                if near
                else f"{adapter} reads {', '.join(layout.columns)}",
            )
        if _cell(layout, row, column) is None:
            return f"has a blank {column!r}"
    return None


def _names(layout: Layout, column: str) -> tuple[str, ...]:
    """A column's names in data files."""
    return (column, *layout.instead.get(column, ()))


def _cell(layout: Layout, row: Row, column: str) -> str | None:
    """The cell of a column under the first of its names that is not blank."""
    return next((text for name in _names(layout, column) if (text := row.text(name))), None)


def _stratum(layout: Layout, row: Row) -> str:
    """What a row is drawn beside."""
    if layout.by_subset:
        return subset_of(row.file, layout.split)
    return row.text(layout.stratum) or "" if layout.stratum else ""


def _notes(
    rows: Sequence[Row], skipped: Mapping[int, str], ids: Mapping[str, int]
) -> Iterator[str]:
    if skipped:
        first = list(skipped.items())[:_MOST_NAMED]
        file = rows[first[0][0]].file
        named = [
            f"{rows[p].place if rows[p].file == file else rows[p].where} {why}" for p, why in first
        ]
        more = [f"and {len(skipped) - _MOST_NAMED} more"] if len(skipped) > _MOST_NAMED else []
        yield (
            f"{len(skipped)} of {len(rows)} rows are no questions and are left out; in {file}, "
            + ", ".join(named + more)
        )
    repeated = [own for own, count in ids.items() if count > 1]
    if repeated:
        yield (
            f"{sum(ids[own] - 1 for own in repeated)} rows have the id of an earlier row "
            f"({repeated[0]!r}, say); their position is added to it"
        )


def _ambiguous(rows: Sequence[Row], records: Mapping[int, Record]) -> Iterator[str]:
    """A note where a wrong choice of a question reads like the right one."""
    found = [p for p, record in records.items() if set.intersection(*_right_and_wrong(record))]
    if found:
        places = ", ".join(rows[position].where for position in found[:_MOST_NAMED])
        yield (
            f"{len(found)} questions have the right choice twice, and only one of its letters "
            f"scores: {places}"
        )


def _right_and_wrong(record: Record) -> tuple[set[str], set[str]]:
    """The texts of a question's right choices, and of its wrong ones; none without choices."""
    if "Correct Answer" in record:  # of gpqa
        wrong = {text.strip() for key, text in record.items() if key.startswith("Incorrect")}
        return {record["Correct Answer"].strip()}, wrong
    texts = {letter: record[letter].strip() for letter in LETTERS if letter in record}
    right = [letter for letter in texts if letter in record["answer"]]
    return {texts[letter] for letter in right}, {texts[n] for n in texts.keys() - set(right)}


# ---- choice --------------------------------------------------------------------------------------


def _order_notes(rows: Sequence[Row], first: Sequence[int]) -> Iterator[str]:
    """A note where rows are ordered by a column, and the ``first`` lack some of its values.

    Rows are ordered by a column of few values where the rows of each value stand together.
    """
    if len(rows) < _FEWEST_ORDERED:  # such an order comes by chance
        return
    for column in rows[0].values:
        values = [str(row.values.get(column)) for row in rows]
        classes = list(dict.fromkeys(values))
        runs = 1 + sum(before != after for before, after in pairwise(values))
        asked = {values[position] for position in first}
        left_out = [value for value in classes if value not in asked]
        if left_out and runs == len(classes) <= min(_MOST_CLASSES, len(rows) // 2):
            yield (
                f"questions = {len(first)} takes the first of {len(rows)} rows, which are ordered "
                f"by {column}: {len(left_out)} of its {len(classes)} values are never asked "
                f"({left_out[0]!r}, say); sample = {len(first)} draws from all"
            )
            return


def _searched_or_held_out(
    benchmark: BenchmarkSection, read: _Read, chosen: tuple[int, ...], seed: int
) -> tuple[int, ...]:
    """Those of the chosen positions that a search asks, or those kept out of it."""
    if not benchmark.holdout:
        return chosen
    share = round(benchmark.holdout * len(chosen))
    if not 0 < share < len(chosen):
        raise SourceError(
            f"holdout = {benchmark.holdout:g} keeps {share} of {len(chosen)} questions out of the "
            "search",
            "ask more questions, or confirm on other benchmarks ([[confirm.benchmarks]])",
        )
    kept_out = set(_sample(read, chosen, share, seed))
    return tuple(p for p in chosen if (p in kept_out) is benchmark.held_out)


def _chosen(benchmark: BenchmarkSection, read: _Read, available: int, seed: int) -> tuple[int, ...]:
    """Positions of the questions to ask, in the order in which they are asked."""
    if benchmark.question_ids is not None:
        for position in benchmark.question_ids:
            if position >= available:
                raise DataError(
                    f"question_ids names {position}, but its data holds {available} questions "
                    f"(0 to {available - 1})"
                )
            if position in read.skipped:
                raise DataError(
                    f"question_ids names {position}, but that row {read.skipped[position]}"
                )
        return benchmark.question_ids
    wanted = benchmark.questions or benchmark.sample or len(read.records)
    if wanted > len(read.records):
        raise DataError(f"{wanted} questions wanted, but its data holds {len(read.records)}")
    if benchmark.sample is not None:
        return _sample(read, tuple(read.records), wanted, seed)
    return tuple(read.records)[:wanted]


def _sample(read: _Read, positions: Sequence[int], wanted: int, seed: int) -> tuple[int, ...]:
    """A random sample of ``positions``, of each stratum its share; independent of their order.

    A question's rank is a hash of its own content and the seed. Strata get whole numbers of
    questions by largest remainders.
    """
    ranked = defaultdict(list)
    for position in sorted(positions, key=lambda p: (_rank(read.records[p], seed), p)):
        ranked[read.strata[position]].append(position)
    whole = len(positions)
    shares = {name: len(members) * wanted / whole for name, members in ranked.items()}
    counts = {name: int(share) for name, share in shares.items()}
    largest = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
    for name in largest[: wanted - sum(counts.values())]:
        counts[name] += 1
    return tuple(sorted(p for name, members in ranked.items() for p in members[: counts[name]]))


def _rank(record: Record, seed: int) -> bytes:
    asked = {name: value for name, value in record.items() if name not in ("id", "unique_id")}
    text = json.dumps([seed, asked], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


@contextmanager
def _naming(benchmark: BenchmarkSection) -> Iterator[None]:
    """Puts the benchmark's name before every `SourceError` that is raised within."""
    try:
        yield
    except SourceError as error:
        named = f"benchmark {benchmark.name}: {error.message}"
        raise type(error)(named, error.hint) from error
