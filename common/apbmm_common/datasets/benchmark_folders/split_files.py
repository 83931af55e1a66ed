"""Which files of a benchmark's folder hold the questions of a split, or of a subset.

Where each data file is a subset, the subset is named as the file: ``NAME.jsonl`` or
``NAME_SPLIT.jsonl``.
"""

from __future__ import annotations

import re
from pathlib import Path

from apbmm_common.datasets.benchmark_folders.layouts import LAYOUTS, Layout
from apbmm_common.datasets.data_files import (
    MOST_NAMED,
    SUFFIXES,
    is_data_file,
    require_no_pointer,
)
from apbmm_common.errors import SourceError
from apbmm_common.run_file import BenchmarkSection

_DEFAULT = "default"
"""The subset of a file that is named for its split alone."""
_PATTERNS = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet\Z")


def question_files(
    benchmark: BenchmarkSection, layout: Layout, places: tuple[Path, ...]
) -> list[Path]:
    """The files of the questions that may be asked, in the order in which their rows count.

    Raises `SourceError` where they are missing, or it is not clear which files are meant.
    """
    if layout.by_subset:
        return _of_subsets(benchmark, layout, places)
    return _of_scored_split(layout, places)


def require_data(benchmark: BenchmarkSection, places: tuple[Path, ...]) -> None:
    """Raise `SourceError` unless there is data for an adapter that reads the folder itself."""
    folder = places[0]
    if len(places) > 1 or not folder.is_dir():
        raise SourceError(
            f"{folder} is not a folder",
            f"{benchmark.adapter} reads a local folder; nothing is downloaded",
        )
    if benchmark.sample is not None or benchmark.question_ids is not None or benchmark.holdout:
        raise SourceError(
            "sample, question_ids and holdout are for "
            f"{', '.join(sorted(LAYOUTS))} and apbmm's own, not for {benchmark.adapter}",
            "questions takes the first ones of any adapter",
        )
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.stat().st_size
    ]
    if not found:
        raise SourceError(f"{folder} holds no data", f"looked for {_PATTERNS}")
    for file in found:
        require_no_pointer(file)


def files_of_split(split: str, folder: Path) -> list[Path]:
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


def subset_of(file: Path, split: str) -> str:
    """The subset that a data file is."""
    stem = re.sub(r"-\d{5}-of-\d{5}\Z", "", file.stem)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", stem.removesuffix(f"_{split}"))
    return _DEFAULT if name in ("", split) else name


def _of_subsets(
    benchmark: BenchmarkSection, layout: Layout, places: tuple[Path, ...]
) -> list[Path]:
    """The files of the subsets that are asked, in the order in which their rows count."""
    wanted = benchmark.arguments.get("subset_list")
    if len(places) == 1 and places[0].is_dir():
        found = [
            file
            for subset in wanted or [_DEFAULT]
            for file in _files_of_subset(places[0], layout.split, subset)
        ]
        if not found and not wanted:
            found = _only_file(places[0], layout.also)
    else:
        found = _of_scored_split(layout, places)
    if wanted is None and found:
        return found
    subsets = {subset_of(file, layout.split): file for file in found}
    lacking = [subset for subset in wanted or [_DEFAULT] if subset not in subsets]
    if lacking:
        raise SourceError(
            f"{', '.join(map(str, places))} holds no data of the subset {lacking[0]}",
            f"expected {lacking[0]}_{layout.split}.jsonl or {lacking[0]}.jsonl (or .csv, ...)",
        )
    return [file for file in found if subset_of(file, layout.split) in (wanted or [_DEFAULT])]


def _of_scored_split(layout: Layout, places: tuple[Path, ...]) -> list[Path]:
    """The files of the scored split, in the order in which their rows count."""
    missing = [place for place in places if not place.exists()]
    if missing:
        raise SourceError(
            f"{missing[0]} is not a folder or file that exists",
            "benchmarks are read from this host only; nothing is downloaded",
        )
    if len(places) == 1 and places[0].is_dir():
        found = files_of_split(layout.split, places[0]) or _only_file(places[0])
        if not found:
            names = [path.name for path in sorted(places[0].iterdir())]
            raise SourceError(
                f"{places[0]} holds no data of the split that is asked; in it is "
                f"{', '.join(names[:MOST_NAMED]) or 'nothing'}",
                f"expected {layout.split}.jsonl (or .csv, .parquet) there; path may also name a "
                "file or a list of files",
            )
        return found
    for place in places:
        if place.is_dir() or place.suffix.lower() not in SUFFIXES:
            raise SourceError(f"{place} is not a data file", f"known are {_PATTERNS}")
    return list(places)


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
        named = ", ".join(path.name for path in found[:MOST_NAMED])
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


def _files_of_subset(folder: Path, split: str, subset: str) -> list[Path]:
    """The files in a folder that EvalScope would read for one subset, its first choice first."""
    names = [f"{subset}_{split}", *([split] if subset == _DEFAULT else [])]
    found = [folder / f"{name}{suffix}" for name in [*names, subset] for suffix in SUFFIXES]
    return [file for file in found if file.is_file()][:1]
