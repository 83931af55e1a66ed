"""The answers of unfinished evaluations, in tables of their own beside the events of a journal.

They spare the next attempt what an earlier one has asked. Nothing is computed from them: a journal
without them tells the same run. So replay does not read them, and a disk that refuses them stops
nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from apbmm_common.process.failpoints import reach
from apbmm_common.protocol.answers import replaces
from apbmm_common.protocol.messages import FULL_BYTES, MOST_ENTRIES, Answers, KeptAnswer
from apbmm_master.journal.events import (
    AnyEvent,
    AttemptFailed,
    EvaluationFailed,
    ResultRecorded,
    SourcesVerified,
    Stopped,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS kept_answers (
    number INTEGER PRIMARY KEY, evaluation TEXT NOT NULL, key TEXT NOT NULL, packed BLOB NOT NULL,
    UNIQUE (evaluation, key)
) STRICT;
CREATE INDEX IF NOT EXISTS kept_answers_of ON kept_answers (evaluation);
CREATE TABLE IF NOT EXISTS kept_outcomes (
    evaluation TEXT NOT NULL, benchmark TEXT NOT NULL, question TEXT NOT NULL, score REAL NOT NULL,
    tokens INTEGER NOT NULL, finish_reason TEXT NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (evaluation, benchmark, question)
) STRICT, WITHOUT ROWID;
"""
TABLES = ("kept_answers", "kept_outcomes")
BLAMED = ("vector", "run_file")
"""Faults after which the answers of the attempt are not to be used again."""
PAGE = (
    "SELECT number, length(packed) FROM kept_answers WHERE evaluation = ? "
    "ORDER BY number LIMIT ? OFFSET ?"
)
_INSERT_ANSWER = (
    "INSERT INTO kept_answers (evaluation, key, packed) VALUES (?, ?, ?) "
    "ON CONFLICT (evaluation, key) DO UPDATE SET packed = excluded.packed "
    "WHERE replaces(key, excluded.packed, packed)"
)
_INSERT_OUTCOME = "INSERT OR IGNORE INTO kept_outcomes VALUES (?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Kept:
    """How many answers of the engine, and how many scored questions, an evaluation has."""

    answers: int = 0
    outcomes: int = 0


@dataclass(frozen=True, slots=True)
class ScoredPart:
    """What an evaluation has of one benchmark: scored answers, the sum of scores, and tokens."""

    answered: int = 0
    scores: float = 0.0
    tokens: int = 0


class AnswerTables:
    """The tables in an open database, and how much each evaluation has in them.

    Raises `sqlite3.Error` where the database does.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.create_function("replaces", 3, _replaces, deterministic=True)
        self._counts: dict[str, Kept] = {}
        self._parts: dict[str, dict[str, ScoredPart]] = {}
        self.read()

    def read(self) -> None:
        """Count anew what is stored."""
        self._counts = counts(self._db)
        self._parts = {name: self._scored(name) for name in self._counts}

    @property
    def all(self) -> Mapping[str, Kept]:
        """How much is committed, by evaluation, of those of which anything is kept."""
        return dict(self._counts)

    def of(self, evaluation: str) -> Kept:
        """How much of an evaluation is committed."""
        return self._counts.get(evaluation, Kept())

    def scored(self, evaluation: str) -> Mapping[str, ScoredPart]:
        """What of an evaluation is scored, by benchmark; the same object until that changes."""
        return self._parts.get(evaluation, {})

    def keep(self, batches: Iterable[tuple[str, Answers]]) -> None:
        """Commit answers with their evaluations, in one transaction.

        What is stored already stays as it is, so a repetition changes nothing; but an answer that
        was cut off gives way to one that goes on from it (`answers.replaces`).
        """
        changed = set()
        with self._db:
            reach("journal.begin", "answers")
            for name, batch in batches:
                answers = [(name, answer.key, answer.packed) for answer in batch.answers]
                self._db.executemany(_INSERT_ANSWER, answers)
                rows = [(name, *outcome.model_dump().values()) for outcome in batch.outcomes]
                self._db.executemany(_INSERT_OUTCOME, rows)
                changed.add(name)
            reach("journal.insert", "answers")
        for name in changed:
            self._parts[name] = parts = self._scored(name)
            outcomes = sum(part.answered for part in parts.values())
            self._counts[name] = Kept(self._answers(name), outcomes)
        reach("journal.commit", "answers")

    def _answers(self, evaluation: str) -> int:
        query = "SELECT count(*) FROM kept_answers WHERE evaluation = ?"
        return int(self._db.execute(query, (evaluation,)).fetchone()[0])

    def _scored(self, evaluation: str) -> dict[str, ScoredPart]:
        query = (
            "SELECT benchmark, count(*), total(score), sum(tokens) FROM kept_outcomes "
            "WHERE evaluation = ? GROUP BY benchmark"
        )
        rows = self._db.execute(query, (evaluation,))
        return {benchmark: ScoredPart(*part) for benchmark, *part in rows}

    def page(self, evaluation: str, after: int) -> tuple[KeptAnswer, ...]:
        """The kept answers of an evaluation from number ``after`` on, as many as a message has."""
        rows = self._db.execute(PAGE, (evaluation, MOST_ENTRIES, after)).fetchall()
        page: list[KeptAnswer] = []
        size = 0
        for number, length in rows:
            size += length
            if page and size > FULL_BYTES:
                break
            key, packed = self._db.execute(
                "SELECT key, packed FROM kept_answers WHERE number = ?", (number,)
            ).fetchone()
            page.append(KeptAnswer(key=key, packed=packed))
        return tuple(page)

    def delete(self, evaluations: Iterable[str]) -> None:
        """Delete all that is kept of evaluations, within the transaction of the caller."""
        for name in evaluations:
            for table in TABLES:
                self._db.execute(f"DELETE FROM {table} WHERE evaluation = ?", (name,))  # noqa: S608

    def needless(self, events: Iterable[AnyEvent]) -> set[str]:
        """The evaluations whose kept answers are of no use once these events are committed."""
        found: set[str] = set()
        for event in events:
            match event:
                case ResultRecorded() | EvaluationFailed() | Stopped():
                    found.add(event.evaluation)
                case AttemptFailed() if event.fault in BLAMED:
                    found.add(event.evaluation)
                case SourcesVerified():  # with other questions than before, if there were any
                    found.update(self._counts)
        return found & self._counts.keys()

    def deleted(self, evaluations: Iterable[str]) -> None:
        """Note that what `delete` did is committed."""
        for name in evaluations:
            self._counts.pop(name, None)
            self._parts.pop(name, None)


def _replaces(key: str, new: bytes, old: bytes) -> bool:
    return replaces(KeptAnswer(key=key, packed=new), KeptAnswer(key=key, packed=old))


def exist(db: sqlite3.Connection) -> bool:
    """Whether a database has the tables; those of earlier versions do not."""
    rows = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {(table,) for table in TABLES} <= set(rows)


def counts(db: sqlite3.Connection) -> dict[str, Kept]:
    """How much is kept of each evaluation; nothing in a journal that has no such tables."""
    if not exist(db):
        return {}
    found: dict[str, list[int]] = {}
    for column, table in enumerate(TABLES):
        query = f"SELECT evaluation, count(*) FROM {table} GROUP BY evaluation"  # noqa: S608
        for name, count in db.execute(query):
            found.setdefault(name, [0, 0])[column] = count
    return {name: Kept(*pair) for name, pair in found.items()}
