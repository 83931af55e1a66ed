"""The run's memory on disk: append-only events in SQLite, one master at a time.

Every commit is durable before it returns (WAL, synchronous=FULL). A result is unique for its
evaluation by a primary key, so that no code path can record two.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from pydantic import ValidationError

from apbmm_common.errors import JournalError
from apbmm_common.messages import Evaluated
from apbmm_master.events import EVENT, Record, ResultRecorded
from apbmm_master.lifecycle import InvariantError

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
            self._seq = self._last_seq()
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

    def _last_seq(self) -> int:
        try:
            row = self._db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        except sqlite3.Error as error:
            self._db.close()
            raise _damaged(self.path, error) from error
        return int(row[0])

    @property
    def seq(self) -> int:
        """Sequence number of the last committed event; 0 for an empty journal."""
        return self._seq

    def append(self, records: Sequence[Record]) -> None:
        """Commit ``records`` in one transaction, all or none; their numbers follow `seq`.

        Raises `JournalError` when the disk refuses; nothing of the transaction is then stored.
        Raises `InvariantError` for records that do not follow, or a second result.
        """
        if [record.seq for record in records] != [self._seq + 1 + i for i in range(len(records))]:
            raise InvariantError("records do not follow the journal")
        try:
            with self._db:
                for record in records:
                    self._insert(record)
        except sqlite3.IntegrityError as error:
            raise InvariantError(f"{self.path}: {error}") from error
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.rollback()
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
        begun = db.execute("PRAGMA user_version").fetchone()[0] > 0
        return list(_records(db, path)) if begun else []
    finally:
        db.close()


def _records(db: sqlite3.Connection, path: Path) -> Iterator[Record]:
    try:
        for seq, when, body in db.execute("SELECT seq, time, body FROM events ORDER BY seq"):
            yield Record(seq, when, EVENT.validate_json(body))
    except (sqlite3.Error, ValidationError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> JournalError:
    return JournalError(
        f"{path}: damaged: {str(error).splitlines()[0]}",
        "keep the file; `sqlite3 journal.sqlite .recover` may save what is readable",
    )


def _without_outcomes(
    event: ResultRecorded, body: Evaluated
) -> tuple[ResultRecorded, list[tuple[str, str, str, float, int, str]]]:
    """Split the per-question outcomes off: replay does not need them, analyses do."""
    rows = [
        (event.evaluation, name, question, score, tokens, reason)
        for name, result in body.benchmarks.items()
        for question, score, tokens, reason in result.outcomes
    ]
    return event.model_copy(update={"body": body.without_outcomes()}), rows


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    with contextlib.ExitStack() as closing:
        try:
            db = sqlite3.connect(
                f"file:{quote(str(path))}?mode={mode}",
                uri=True,
                timeout=10,
                check_same_thread=False,
            )
            closing.callback(db.close)
            _set_up(db, path, read_only=read_only)
        except sqlite3.Error as error:
            raise JournalError(
                f"{path}: cannot be opened: {error}",
                "is it a journal, and is there space on the disk?",
            ) from error
        closing.pop_all()
    return db


def _set_up(db: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
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
        if version == 0:
            # At once, so that a reader sees a whole journal or an empty file.
            db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")


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
