"""How far a journal has come, kept beside it, so that one that lost its end is never resumed.

SQLite reads a log that was cut off as far as it is whole and says nothing: after a crash that is
right, since nothing cut off by a crash was ever committed. A log cut off by a copy that failed or
by a person looks the same, and would lose commits that workers rely on. The mark is written after
each commit, in place and not synced: it may lag behind, and is never ahead.

A database file that ends within a page is read as if the rest were zeros, which only those notice
who read that page; but its header says how long it was.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NAME = "journal.mark"
DIGITS = 20


class HighWater:
    """The mark of one run directory, open for writing."""

    def __init__(self, run_dir: Path) -> None:
        self._file = os.open(run_dir / NAME, os.O_RDWR | os.O_CREAT, 0o644)

    def rise(self, seq: int) -> None:
        """Note that ``seq`` is committed. A disk that refuses only leaves the mark behind."""
        with contextlib.suppress(OSError):
            os.pwrite(self._file, f"{seq:0{DIGITS}d}\n".encode(), 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def high_water(run_dir: Path) -> int:
    """The last event known to be committed; 0 without a mark, or with one that a crash cut off."""
    try:
        text = (run_dir / NAME).read_bytes()
    except FileNotFoundError:
        return 0
    return int(text) if len(text) == DIGITS + 1 and text[:DIGITS].isdigit() else 0


def missing_bytes(database: Path) -> int:
    """Bytes by which a SQLite file without a log is shorter than its header says."""
    log = database.with_name(f"{database.name}-wal")
    size = database.stat().st_size if database.is_file() else 0
    if not size or (log.is_file() and log.stat().st_size):
        return 0
    with database.open("rb") as file:
        header = file.read(32)
    page, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
    return max(0, pages * page - size) if header.startswith(b"SQLite format 3") else 0
