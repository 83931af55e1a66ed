"""Where the runs of this user are: a small file for each, so that a run is found by its name.

The files are in ``apbmm/known-runs`` within the user's state (`home.state_home`). Each is called
like a run and holds its folder. Where they cannot be read or written, runs are found by their
folders alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from apbmm_common.errors import UsageError
from apbmm_common.process.home import state_home
from apbmm_common.process.whole_files import write_whole

log = logging.getLogger(__name__)

JOURNAL = "journal.sqlite"
"""Name of the journal in a run directory."""
RUN_ID_DIGITS = 8
"""A run is called after its run file, and so many digits tell it from others of that name."""


def note_run(run: str, folder: Path) -> None:
    """Note where a run is, and forget runs whose folders are gone."""
    try:
        notes = _notes()
        notes.mkdir(parents=True, exist_ok=True)
        write_whole(notes / run, f"{folder.resolve()}\n".encode())
        for note, place in _read(notes):
            if not (place / JOURNAL).exists():
                note.unlink(missing_ok=True)
    except (OSError, UsageError) as error:
        log.info("the place of run %s could not be noted: %s", run, error)


def places_of(name: str) -> list[Path]:
    """The folders of the run called ``name``, or of all runs of a run file of that name.

    The one that was begun or gone on with last comes first.
    """
    return [
        place for note, place in _known() if name in (note.name, note.name[: -RUN_ID_DIGITS - 1])
    ]


def places_ending(path: Path) -> list[Path]:
    """The folders of runs whose paths end with all parts of a relative ``path``."""
    parts = path.parts
    return [place for _, place in _known() if parts and place.parts[-len(parts) :] == parts]


def latest_places(most: int) -> list[Path]:
    """The folders of the runs that were begun or gone on with last."""
    return [place for _, place in _known()][:most]


def _known() -> list[tuple[Path, Path]]:
    """The notes of runs that are still there, with their folders; the latest first."""
    try:
        found = [
            (note.stat().st_mtime, note, place)
            for note, place in _read(_notes())
            if (place / JOURNAL).is_file()
        ]
    except (OSError, UsageError):
        return []
    return [(note, place) for _, note, place in sorted(found, reverse=True)]


def _read(notes: Path) -> Iterator[tuple[Path, Path]]:
    """Each note with the folder that it holds."""
    for note in notes.iterdir() if notes.is_dir() else ():
        if not note.name.startswith("."):
            yield note, Path(note.read_text(encoding="utf-8", errors="replace").strip())


def _notes() -> Path:
    return state_home() / "known-runs"
