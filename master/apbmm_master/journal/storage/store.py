"""The journal on disk: append-only events in SQLite, written by one master at a time.

Every commit is durable before it returns (WAL, synchronous=FULL). A result is unique for its
evaluation by a primary key, so that no defect can record two.

A file beside the database, ``journal.mark``, says how many events were committed. SQLite reads a
write-ahead log that was cut off as far as it is whole and reports nothing. After a crash that is
right, because nothing that a crash cut off was ever committed. A log that a failed copy or a person
cut off looks the same, but has lost commits that workers rely on; the mark shows it. The mark is
written after each commit and is not synced: it may lag behind the journal and is never ahead.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sqlite3
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self
from urllib.parse import quote

from apbmm_common.errors import JournalError, RunDirectoryError
from apbmm_common.process.failpoints import reach
from apbmm_common.process.known_runs import JOURNAL
from apbmm_common.protocol.messages import Answers, Evaluated
from apbmm_master.journal.events import (
    EVENT,
    Paused,
    Record,
    ResultLearnt,
    ResultRecorded,
    without_answers,
)
from apbmm_master.journal.lifecycle import InvariantError
from apbmm_master.journal.storage import answer_tables
from apbmm_master.journal.storage import partial_outcomes as partial
from apbmm_master.journal.storage.answer_tables import AnswerTables, Kept
from apbmm_master.journal.storage.partial_outcomes import PartialRow
from apbmm_master.journal.storage.run_directory import claim

NAME = JOURNAL
MARK = "journal.mark"
MARK_DIGITS = 20
SPARE_BYTES = 64 << 20
"""Answers of unfinished evaluations are not stored on a disk with less space than this."""
RESULTS = (ResultRecorded, ResultLearnt)
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


class Journal:
    """The journal of one run directory, open for writing and locked against a second master.

    Raises `RunDirectoryError` for a directory that cannot hold a journal, `JournalError` when it is
    locked, or holds a journal that is damaged, cut off, or of another version.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / NAME
        with contextlib.ExitStack() as closing:
            closing.callback(claim(run_dir).release)
            _require_whole_file(self.path)
            self._db = closing.enter_context(contextlib.closing(_connect(self.path)))
            self._seq = self._last_seq()
            self.answers = self._answer_tables()
            """How much is kept of unfinished evaluations."""
            _require_whole(self.path, self._seq, read_end_mark(run_dir))
            self._mark = _open_mark(run_dir)
            closing.callback(os.close, self._mark)
            self._closing = closing.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database and give up the lock."""
        self._closing.close()

    def _last_seq(self) -> int:
        try:
            row = self._db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        except sqlite3.Error as error:
            raise _damaged(self.path, error) from error
        return int(row[0])

    def _answer_tables(self) -> AnswerTables:
        try:
            return AnswerTables(self._db)
        except sqlite3.Error as error:
            raise _damaged(self.path, error) from error

    @property
    def seq(self) -> int:
        """Sequence number of the last committed event; 0 for an empty journal."""
        return self._seq

    def append(self, records: Sequence[Record]) -> None:
        """Commit ``records`` in one transaction, all or none; their numbers follow `seq`.

        Kept answers that are of no use afterwards are deleted in the same transaction.

        Raises `JournalError` when the disk refuses; what is then stored, all or nothing, is for
        `records` to tell. Raises `InvariantError` for records that do not follow, or a second
        result.
        """
        if [record.seq for record in records] != [self._seq + 1 + i for i in range(len(records))]:
            raise InvariantError("records do not follow the journal")
        needless = self.answers.needless(record.event for record in records)
        try:
            with self._db:
                self.answers.delete(needless)
                for record in records:
                    reach("journal.begin", record.event.event)
                    self._insert(record)
                    reach("journal.insert", record.event.event)
            for record in records:
                reach("journal.commit", record.event.event)
        except sqlite3.IntegrityError as error:
            raise InvariantError(f"{self.path}: {error}") from error
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(sqlite3.Error, JournalError):
                self._db.rollback()
                self._seq = self._last_seq()
            raise JournalError(
                f"{self.path}: could not be written: {error}",
                "free some space; what was recorded is safe and the run goes on by itself",
            ) from error
        self._seq += len(records)
        self.answers.deleted(needless)
        with contextlib.suppress(OSError):  # the mark lags behind where the disk refuses it
            os.pwrite(self._mark, f"{self._seq:0{MARK_DIGITS}d}\n".encode(), 0)

    def keep(self, batches: Sequence[tuple[str, Answers]]) -> None:
        """Commit answers with the evaluations that they are of, in a transaction of their own.

        Raises `JournalError` when the disk refuses, or has less than `SPARE_BYTES` free; the events
        are as they were.
        """
        try:
            free = shutil.disk_usage(self.path.parent).free
            if free < SPARE_BYTES:
                raise OSError(f"{free >> 20} MiB are free on the disk")
            self.answers.keep(batches)
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.rollback()
            raise JournalError(
                f"{self.path}: answers of unfinished evaluations are not kept: {error}",
                "free some space; the run goes on, and workers send them again",
            ) from error

    def keep_only(self, evaluations: Container[str]) -> None:
        """Delete what is kept of all other evaluations. Raises `JournalError`."""
        needless = [name for name in self.answers.all if name not in evaluations]
        if not needless:
            return
        try:
            with self._db:
                self.answers.delete(needless)
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: could not be written: {error}") from error
        self.answers.deleted(needless)

    def _insert(self, record: Record) -> None:
        event = record.event
        self._db.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?)",
            (record.seq, record.time, event.event, without_answers(event).model_dump_json()),
        )
        if isinstance(event, Paused):
            partial.insert(self._db, event.evaluation, event.body)
        if isinstance(event, RESULTS):
            self._db.execute("INSERT INTO results VALUES (?, ?)", (event.evaluation, record.seq))
            self._db.executemany(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?)", _outcomes_of(event)
            )
            partial.delete(self._db, [event.evaluation])

    def records(self) -> Iterator[Record]:
        """Every committed event in order."""
        return _records(self._db, self.path)


def read_journal(run_dir: Path, after: int = 0) -> list[Record]:
    """The events of a run directory that follow number ``after``, by default all.

    The journal is not locked: this is safe beside a living master. Raises `JournalError` when there
    is no journal or it cannot be read.
    """
    path = run_dir / NAME
    mark = read_end_mark(run_dir)  # before the journal, which may grow meanwhile
    with _reading(path) as (db, begun):
        records = list(_records(db, path, after)) if begun else []
    _require_whole(path, records[-1].seq if records else after, mark)
    return records


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[tuple[sqlite3.Connection, bool]]:
    """A journal open for reading, and whether it holds tables yet. Raises `JournalError`."""
    if not path.is_file():
        raise JournalError(f"{path}: no such journal", "give the run directory of a run")
    _require_whole_file(path)
    with contextlib.closing(_connect(path, read_only=True)) as db:
        try:
            yield db, db.execute("PRAGMA user_version").fetchone()[0] > 0
        except sqlite3.Error as error:
            raise _damaged(path, error) from error


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """One answer: a row of the journal's table of outcomes. ``score`` is from 0 to 1."""

    evaluation: str
    benchmark: str
    question: str
    score: float
    tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class OutcomeSums:
    """Sums over the ``answers`` that one evaluation gave to one benchmark."""

    answers: int
    score: float
    squared_score: float
    tokens: int
    squared_tokens: int

    @classmethod
    def of(cls, outcomes: Sequence[tuple[str, float, int, str]]) -> Self:
        """The sums over the answers of a result, as `read_outcome_sums` gives them."""
        scores = [score for _, score, _, _ in outcomes]
        tokens = [count for _, _, count, _ in outcomes]
        return cls(
            len(outcomes),
            math.fsum(scores),
            math.fsum(score * score for score in scores),
            sum(tokens),
            sum(count * count for count in tokens),
        )


def read_outcomes(run_dir: Path, evaluation: str | None = None) -> list[OutcomeRow]:
    """The answers of one evaluation, or of all, in the order of the journal.

    Raises `JournalError` as `read_journal` does. Without answers for evaluations whose worker was
    of a version that sent none.
    """
    query = (
        "SELECT evaluation, benchmark, question, score, tokens, finish_reason FROM outcomes "
        "WHERE ?1 IS NULL OR evaluation = ?1 ORDER BY rowid"
    )
    with _reading(run_dir / NAME) as (db, begun):
        return [OutcomeRow(*row) for row in db.execute(query, (evaluation,))] if begun else []


def with_outcomes(body: Evaluated, rows: Sequence[OutcomeRow]) -> Evaluated:
    """A result with the answers to its questions, which the journal keeps apart from its event."""
    benchmarks = {
        name: result.model_copy(
            update={
                "outcomes": tuple(
                    (row.question, row.score, row.tokens, row.finish_reason)
                    for row in rows
                    if row.benchmark == name
                )
            }
        )
        for name, result in body.benchmarks.items()
    }
    return body.model_copy(update={"benchmarks": benchmarks})


def read_rows(
    run_dir: Path, done: Iterable[str], paused: Iterable[str]
) -> Iterator[tuple[str, list[PartialRow]]]:
    """Evaluations with their answers, one after another: those that are done, then paused ones.

    A paused one has no rows once it has its result. Raises `JournalError` as `read_journal` does.
    """
    query = (
        "SELECT benchmark, question, score, tokens, finish_reason FROM outcomes "
        "WHERE evaluation = ? ORDER BY rowid"
    )
    with _reading(run_dir / NAME) as (db, _):
        for name in done:
            yield name, [PartialRow(*row) for row in db.execute(query, (name,))]
        for name in paused:
            yield name, partial.read(db, name)


def read_page(
    run_dir: Path, after: int, most: int
) -> tuple[list[Record], dict[tuple[str, str], OutcomeSums]]:
    """At most so many events after number ``after``, and the sums over the answers of these.

    Raises `JournalError` as `read_journal` does.
    """
    path = run_dir / NAME
    with _reading(path) as (db, begun):
        records = list(islice(_records(db, path, after), most)) if begun else []
        sums: dict[tuple[str, str], OutcomeSums] = {}
        for record in records:
            if isinstance(record.event, RESULTS):
                sums |= _outcome_sums(db, record.event.evaluation)
    return records, sums


def read_outcome_sums(run_dir: Path) -> dict[tuple[str, str], OutcomeSums]:
    """The sums over the answers, by evaluation and benchmark. Raises `JournalError`."""
    with _reading(run_dir / NAME) as (db, begun):
        return _outcome_sums(db) if begun else {}


def _outcome_sums(
    db: sqlite3.Connection, evaluation: str | None = None
) -> dict[tuple[str, str], OutcomeSums]:
    rows = db.execute(
        "SELECT evaluation, benchmark, count(*), total(score), total(score * score), "
        "sum(tokens), sum(tokens * tokens) FROM outcomes "
        "WHERE ?1 IS NULL OR evaluation = ?1 GROUP BY evaluation, benchmark",
        (evaluation,),
    )
    return {(evaluation, benchmark): OutcomeSums(*sums) for evaluation, benchmark, *sums in rows}


def read_kept(run_dir: Path) -> dict[str, Kept]:
    """How much is kept of each unfinished evaluation. Raises `JournalError` as `read_journal`."""
    with _reading(run_dir / NAME) as (db, begun):
        return answer_tables.counts(db) if begun else {}


def _require_whole_file(path: Path) -> None:
    missing = missing_bytes(path)
    if missing:
        raise JournalError(
            f"{path}: damaged: its last {missing} bytes are missing", "restore the whole file"
        )


def _require_whole(path: Path, seq: int, mark: int) -> None:
    if seq < mark:
        raise JournalError(
            f"{path}: damaged: its end is missing: {mark} events were committed, it holds {seq}",
            f"restore the run directory whole; if it is to go on from here, delete {MARK} first",
        )


def _records(db: sqlite3.Connection, path: Path, after: int = 0) -> Iterator[Record]:
    try:
        rows = db.execute("SELECT seq, time, body FROM events WHERE seq > ? ORDER BY seq", (after,))
        for expected, (seq, when, body) in enumerate(rows, after + 1):
            if seq != expected:
                raise ValueError(f"event {expected} is missing")
            yield Record(seq, when, EVENT.validate_json(body))
    except (sqlite3.Error, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> JournalError:
    return JournalError(
        f"{path}: damaged: {str(error).splitlines()[0]}",
        "keep the file; `sqlite3 journal.sqlite .recover` may save what is readable",
    )


def _outcomes_of(
    event: ResultRecorded | ResultLearnt,
) -> Iterator[tuple[str, str, str, float, int, str]]:
    """The rows of a result's single answers: replay does not need them, analyses do."""
    if isinstance(event.body, Evaluated):
        for name, result in event.body.benchmarks.items():
            for outcome in result.outcomes:
                yield event.evaluation, name, *outcome


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    try:
        try:
            return _open(path, "mode=ro" if read_only else "mode=rwc", read_only=read_only)
        except sqlite3.OperationalError:
            log = path.with_name(f"{NAME}-wal")
            if not read_only or (log.exists() and log.stat().st_size):
                raise
            # Even to read, SQLite makes files beside a database with a log, which a reader of a
            # folder that it may not write cannot; with no log there is nothing that they are for.
            return _open(path, "mode=ro&immutable=1", read_only=True)
    except (sqlite3.Error, OSError) as error:
        ours = os.access(path.parent, os.W_OK)
        raise JournalError(
            f"{path}: cannot be opened: {error}",
            "is it a journal, and is there space on the disk?"
            if ours
            else "you may not write here: read it as the user who runs the master",
        ) from error


def _open(path: Path, options: str, *, read_only: bool) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"file:{quote(str(path))}?{options}", uri=True, timeout=10, check_same_thread=False
    )
    try:
        _set_up(db, path, read_only=read_only)
    except BaseException:
        db.close()
        raise
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
        if version == 0 or not _has_all_tables(db):
            # At once, so that a reader sees a whole journal or an empty file.
            tables = SCHEMA + answer_tables.SCHEMA + partial.SCHEMA
            db.executescript(f"BEGIN; {tables} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")


def _has_all_tables(db: sqlite3.Connection) -> bool:
    """Whether it has those that came after the first version of the schema."""
    found = db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (partial.TABLE,)).fetchone()
    return found is not None and answer_tables.exist(db)


def _open_mark(run_dir: Path) -> int:
    try:
        return os.open(run_dir / MARK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunDirectoryError(
            f"{run_dir / MARK}: {error}", "is the run directory writable?"
        ) from error


def read_end_mark(run_dir: Path) -> int:
    """The last event known to be committed; 0 where there is no mark or a crash cut it off."""
    try:
        text = (run_dir / MARK).read_bytes()
    except FileNotFoundError:
        return 0
    return int(text) if len(text) == MARK_DIGITS + 1 and text[:MARK_DIGITS].isdigit() else 0


def missing_bytes(database: Path) -> int:
    """Bytes by which a SQLite file without a log is shorter than its header says.

    SQLite reads the missing end of the last page as zeros and reports nothing.
    """
    log = database.with_name(f"{database.name}-wal")
    size = database.stat().st_size if database.is_file() else 0
    if not size or (log.is_file() and log.stat().st_size):
        return 0
    with database.open("rb") as file:
        header = file.read(32)
    page, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
    return max(0, pages * page - size) if header.startswith(b"SQLite format 3") else 0
