"""The outcomes of merges that have paused, in a table beside the events of a journal.

They are stored with the event that a merge has paused, as the outcomes of a result are with that,
and stay until its result takes their place.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from apbmm_common.protocol.answers import CUT
from apbmm_common.protocol.messages import Stepped

SCHEMA = """
CREATE TABLE IF NOT EXISTS partial_outcomes (
    evaluation TEXT NOT NULL, benchmark TEXT NOT NULL, question TEXT NOT NULL, score REAL,
    tokens INTEGER NOT NULL, finish_reason TEXT NOT NULL,
    PRIMARY KEY (evaluation, benchmark, question)
) STRICT, WITHOUT ROWID;
"""
TABLE = "partial_outcomes"


@dataclass(frozen=True, slots=True)
class PartialRow:
    """One answer of a merge that has paused.

    ``score`` is from 0 to 1. It is None where the end of the step has cut the answer off; its
    ``tokens`` are then those so far.
    """

    benchmark: str
    question: str
    score: float | None
    tokens: int
    finish_reason: str


def rows_of(body: Stepped) -> Iterator[PartialRow]:
    """The answers of a step."""
    for name, part in body.benchmarks.items():
        for question, score, tokens, reason in part.outcomes:
            yield PartialRow(name, question, score, tokens, reason)
        for question, tokens in part.cut:
            yield PartialRow(name, question, None, tokens, CUT)


def insert(db: sqlite3.Connection, evaluation: str, body: Stepped) -> None:
    """Store the answers of a step in place of earlier ones, within the caller's transaction."""
    delete(db, [evaluation])
    db.executemany(
        "INSERT INTO partial_outcomes VALUES (?, ?, ?, ?, ?, ?)",
        (
            (evaluation, row.benchmark, row.question, row.score, row.tokens, row.finish_reason)
            for row in rows_of(body)
        ),
    )


def delete(db: sqlite3.Connection, evaluations: Iterable[str]) -> None:
    """Delete the answers of steps, within the transaction of the caller."""
    names = ((name,) for name in evaluations)
    db.executemany("DELETE FROM partial_outcomes WHERE evaluation = ?", names)


def read(db: sqlite3.Connection, evaluation: str) -> list[PartialRow]:
    """The answers of the step of an evaluation; none where it has its result, or never paused."""
    query = (
        "SELECT benchmark, question, score, tokens, finish_reason FROM partial_outcomes "
        "WHERE evaluation = ?"
    )
    return [PartialRow(*row) for row in db.execute(query, (evaluation,))]
