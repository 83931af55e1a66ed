"""Reads a run's events as its master commits them, from outside the master."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from apbmm_common.process.locks import FileLock, lock_file
from apbmm_master.followers.process import Followed
from apbmm_master.journal.events import Record
from apbmm_master.journal.storage.store import read_end_mark, read_journal

POLL_SECONDS = 1.0


def followed(run_dir: Path, master: Followed) -> Iterator[list[Record]]:
    """The journal's events from its beginning, as they come, until the master has ended.

    Every poll gives a list, which is empty where nothing is new. The last one is read after the
    master's end, so that it misses nothing.
    """
    seq = 0
    while True:
        last = master.ended.is_set()
        # The mark is a few bytes to read. A full disk may refuse it; the last reading goes without.
        new = read_journal(run_dir, seq) if last or read_end_mark(run_dir) > seq else []
        seq = new[-1].seq if new else seq
        yield new
        if last:
            return
        master.ended.wait(POLL_SECONDS)


def only_one(run_dir: Path, name: str) -> FileLock:
    """Wait until no other follower of that name is at this run, and keep further ones out.

    One of a killed master may still be at its last work when the next master starts.
    """
    return lock_file(run_dir / f"{name}.lock", wait=True)
