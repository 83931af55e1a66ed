"""The run's memory on disk: append-only events in SQLite, one master at a time.

Every commit is durable before it returns (WAL, synchronous=FULL). A result is unique for its
evaluation by a primary key, so that no code path can record two.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from apbmm_common.errors import JournalError
from apbmm_common.messages import Evaluated
from pydantic import ValidationError

from apbmm_master.events import EVENT, Record, ResultRecorded

NAME = "journal.sqlite"
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, event TEXT NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS results (
    evaluation TEXT PRIMARY KEY, seq INTEGER NOT NULL UNIQUE REFERENCES events (seq)
) STRICT;
CREATE TABLE IF NOT EXISTS outcomes (
    evaluation TEXT NOT NULL REFERENCES results (evaluation), benchmark TEXT NOT NULL,
    question TEXT NOT NULL, score REAL NOT NULL, tokens INTEGER NOT NULL,
    finish_reason TEXT NOT NULL, PRIMARY KEY (evaluation, benchmark, question)
) STRICT;
"""
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "beegfs", "gpfs", "ceph", "9p", "afs",
     "fuse.sshfs", "fuse.glusterfs", "ocfs2", "gfs2"}
)  # fmt: skip


class Journal:
    """The journal of one run directory, open for writing and locked against a second master.

    Raises `JournalError` when the directory is locked, on a network file system, or holds a file
    that is not a journal of this version.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / NAME
        _make_directory(run_dir)
        _refuse_network_file_system(run_dir)
        self._lock = _lock(run_dir / "master.lock")
        try:
            self._db = _connect(self.path)
            self._seq = int(
                self._db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
            )
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database and give up the lock."""
        self._db.close()
        self._lock.close()

    @property
    def seq(self) -> int:
        """Sequence number of the last committed event; 0 for an empty journal."""
        return self._seq

    def append(self, records: Sequence[Record]) -> None:
        """Commit ``records`` in one transaction, all or none; their numbers follow `seq`.

        Raises `JournalError` when the disk refuses; nothing of the transaction is then stored.
        """
        if [record.seq for record in records] != [self._seq + 1 + i for i in range(len(records))]:
            raise AssertionError("records do not follow the journal")
        try:
            with self._db:
                for record in records:
                    self._insert(record)
        except sqlite3.Error as error:
            raise JournalError(
                f"{self.path}: could not be written: {error}",
                "free some space; what was recorded is safe and the run goes on by itself",
            ) from error
        self._seq += len(records)

    def _insert(self, record: Record) -> None:
        event = record.event
        outcomes: list[tuple[str, str, str, float, int, str]] = []
        if isinstance(event, ResultRecorded) and isinstance(event.body, Evaluated):
            event, outcomes = _without_outcomes(event, event.body)
        self._db.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?)",
            (record.seq, record.time, event.event, event.model_dump_json()),
        )
        if isinstance(event, ResultRecorded):
            self._db.execute("INSERT INTO results VALUES (?, ?)", (event.evaluation, record.seq))
            self._db.executemany("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?)", outcomes)

    def records(self) -> Iterator[Record]:
        """Every committed event in order."""
        return _records(self._db, self.path)


def read_journal(run_dir: Path) -> list[Record]:
    """Every event of a run directory, without locking it: safe beside a living master.

    Raises `JournalError` when there is no journal or it cannot be read.
    """
    path = run_dir / NAME
    if not path.is_file():
        raise JournalError(f"{path}: no such journal", "give the run directory of a run")
    db = _connect(path, read_only=True)
    try:
        return list(_records(db, path))
    finally:
        db.close()


def _records(db: sqlite3.Connection, path: Path) -> Iterator[Record]:
    try:
        for seq, when, body in db.execute("SELECT seq, time, body FROM events ORDER BY seq"):
            yield Record(seq, when, EVENT.validate_json(body))
    except (sqlite3.Error, ValidationError) as error:
        raise JournalError(
            f"{path}: damaged: {str(error).splitlines()[0]}",
            "keep the file; `sqlite3 journal.sqlite .recover` may save what is readable",
        ) from error


def _without_outcomes(
    event: ResultRecorded, body: Evaluated
) -> tuple[ResultRecorded, list[tuple[str, str, str, float, int, str]]]:
    """Split the per-question outcomes off: replay does not need them, analyses do."""
    rows = [
        (event.evaluation, name, question, score, tokens, reason)
        for name, result in body.benchmarks.items()
        for question, score, tokens, reason in result.outcomes
    ]
    slim = {
        name: result.model_copy(update={"outcomes": ()}) for name, result in body.benchmarks.items()
    }
    return event.model_copy(update={"body": body.model_copy(update={"benchmarks": slim})}), rows


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(
            f"file:{path}?mode={'ro' if read_only else 'rwc'}",
            uri=True,
            timeout=10,
            check_same_thread=False,
        )
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise JournalError(
                f"{path}: written by another version of apbmm (schema {version})",
                "use the version that began the run",
            )
        if not read_only:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA foreign_keys=ON")
            db.executescript(SCHEMA)
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    except sqlite3.Error as error:
        raise JournalError(
            f"{path}: cannot be opened: {error}", "is it a journal, and is there space on the disk?"
        ) from error
    return db


def _make_directory(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"{run_dir}: cannot be used as a run directory: {error}") from error


def _lock(path: Path) -> IO[str]:
    """Hold an exclusive lock for as long as the returned file is open."""
    try:
        handle = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise JournalError(f"{path}: {error}", "is the run directory writable?") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        holder = handle.read().strip() or "an unknown process"
        handle.close()
        raise JournalError(
            f"{path.parent}: another master is running this run ({holder})",
            "stop it first, or choose another --run-dir",
        ) from None
    handle.truncate(0)
    handle.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    handle.flush()
    return handle


def _refuse_network_file_system(run_dir: Path) -> None:
    """SQLite's write-ahead log needs shared memory, which network file systems do not give."""
    kind = file_system(run_dir)
    if kind in NETWORK_FILE_SYSTEMS:
        raise JournalError(
            f"{run_dir}: is on a network file system ({kind}), where the journal is not safe",
            "put the run directory on a local disk with --run-dir and copy it afterwards",
        )


def file_system(path: Path) -> str:
    """Type of the file system that holds ``path``, as Linux names it; "" when unknown."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    resolved, best = path.resolve(), ("", "")
    for line in mounts:
        point, kind = line.split()[1:3]
        mount = Path(point.replace("\\040", " "))
        if (mount == resolved or mount in resolved.parents) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]
